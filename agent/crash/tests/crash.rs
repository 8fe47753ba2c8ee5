//! Processes that really crash.

#![allow(clippy::unwrap_used)] // helpers of tests are tests
#![allow(clippy::disallowed_methods)] // a word from one process of this test to the other

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Barrier;
use std::thread;

use terrace_crash::{Crash, LABEL, Slot};

const GUILTY: [u8; LABEL] = [b'a'; LABEL];
const INNOCENT: [u8; LABEL] = [b'b'; LABEL];

/// What a child does: see [`child`].
const HOW: &str = "TERRACE_CRASH_TEST";

fn crash(record: &Path, how: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(HOW, format!("{how} {}", record.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
}

/// Runs two things on two threads, and crashes.
#[test]
#[ignore = "a part of the other tests, which start it"]
fn child() {
    let how = std::env::var(HOW).unwrap();
    let (how, record) = how.split_once(' ').unwrap();
    terrace_crash::record_in(Path::new(record)).unwrap();
    let both_run = Barrier::new(3);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut slot = Slot::take(&INNOCENT);
            let _running = slot.run();
            both_run.wait();
            thread::park();
        });
        scope.spawn(|| {
            let mut slot = Slot::take(&GUILTY);
            let _running = slot.run();
            both_run.wait();
            match how {
                "abort" => std::process::abort(),
                "overflow" => std::process::exit(i32::try_from(deep(1)).unwrap_or(1)),
                _ => thread::park(),
            }
        });
        both_run.wait();
        if how == "elsewhere" {
            std::process::abort();
        }
        thread::park();
    });
}

/// Needs more stack than there is.
#[allow(unconditional_recursion)]
fn deep(number: u64) -> u64 {
    let page = std::hint::black_box([number; 512]);
    deep(page[7] + 1) + page[3]
}

fn recorded(record: &Path) -> Vec<Crash> {
    let mut crashes = terrace_crash::read(record).unwrap();
    crashes.sort_by(|one, other| one.label.cmp(&other.label));
    crashes
}

fn expected(labels: &[[u8; LABEL]], signal: &str) -> Vec<Crash> {
    let text = |label: &[u8; LABEL]| String::from_utf8(label.to_vec()).unwrap();
    labels.iter().map(|label| Crash { label: text(label), signal: signal.to_owned() }).collect()
}

#[test]
fn what_the_crashing_thread_ran_is_recorded_and_the_process_dies_of_its_signal() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("crashes");
    assert_eq!(terrace_crash::read(&record).unwrap(), []);
    let status = crash(&record, "abort");
    assert_eq!(status.signal(), Some(6), "{status}");
    assert_eq!(recorded(&record), expected(&[GUILTY], "SIGABRT"));
    // A second crash stands behind the first.
    let status = crash(&record, "overflow");
    assert_eq!(status.signal(), Some(11), "{status}");
    assert_eq!(terrace_crash::read(&record).unwrap()[1..], expected(&[GUILTY], "SIGSEGV"));
}

#[test]
fn where_another_thread_crashed_all_that_ran_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("crashes");
    crash(&record, "elsewhere");
    assert_eq!(recorded(&record), expected(&[GUILTY, INNOCENT], "SIGABRT"));
}

#[test]
fn a_damaged_record_tells_of_what_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("crashes");
    let whole = format!("{} 11", "c".repeat(LABEL));
    fs::write(&record, format!("\n{whole}\n{whole}7\n{} 11\n\u{0} 99 \n{whole}", "d".repeat(3))).unwrap();
    assert_eq!(terrace_crash::read(&record).unwrap(), expected(&[[b'c'; LABEL]; 2], "SIGSEGV"));
}
