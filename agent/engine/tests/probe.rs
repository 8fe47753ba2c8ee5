//! The probe with real child processes, on good and hostile models. What the children are: `support/probe_child.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest as _, Sha256};
use support::models;
use support::onnx::{Element, Graph, node, tensor_type, value};
use tempfile::TempDir;
use terrace_engine::probe::{Artifact, Limits, ProbeError, ProbeRequest, Prober, SUBCOMMAND, Verdict};
use terrace_engine::{ExecutionProvider, ProviderKind};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

/// How long something may take that takes no time.
const SOON: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);
const CHILD: &str = env!("CARGO_BIN_EXE_probe-child");

/// A prober with a folder of its own.
struct Bench {
    dir: TempDir,
    prober: Prober,
    now: SystemTime,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let prober = Prober {
            program: CHILD.into(),
            library: support::library(),
            runtime: "onnxruntime of this test".to_owned(),
            verdicts: dir.path().join("verdicts"),
            limits: Limits { cpu_seconds: 20, patience: SOON, ..Limits::default() },
        };
        Self { dir, prober, now: SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000) }
    }

    /// One whose children go wrong in the way that the name says.
    fn with(name: &str) -> Self {
        let mut bench = Self::new();
        bench.starts(name);
        bench
    }

    fn starts(&mut self, name: &str) {
        let link = self.dir.path().join(name);
        std::os::unix::fs::symlink(CHILD, &link).unwrap();
        self.prober.program = link;
    }

    /// Whatever is asked from now on, no child can answer.
    fn starts_nothing(&mut self) {
        self.prober.program = self.dir.path().join("nothing there");
    }

    fn file(&self, name: &str, content: &[u8]) -> Artifact {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        let digest: Vec<String> = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        Artifact { path, sha256: digest.concat() }
    }

    fn request(&self, model: &[u8]) -> ProbeRequest {
        ProbeRequest {
            model: self.file("model", model),
            cases: None,
            tolerance: 1e-4,
            threads: 1,
            providers: vec![],
        }
    }

    fn request_with_cases(&self, model: &[u8], cases: &str) -> ProbeRequest {
        ProbeRequest { cases: Some(self.file("cases", cases.as_bytes())), ..self.request(model) }
    }

    async fn probe(&self, request: &ProbeRequest) -> Result<Verdict, ProbeError> {
        timeout(SOON + MINUTE, self.prober.probe(request, self.now)).await.expect("an answer")
    }

    async fn verdict(&self, request: &ProbeRequest) -> Verdict {
        self.probe(request).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// How the child of this request died.
    async fn death(&self, request: &ProbeRequest) -> String {
        match self.verdict(request).await {
            Verdict::Died { message } => message,
            verdict => panic!("{verdict:?}"),
        }
    }

    fn kept(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.prober.verdicts).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn good() -> Vec<u8> {
    models::identity(Element::Float, &[-1])
}

/// Cases for [`good`]: that it answers with these two numbers when it is given 1 and 2.
fn cases(answer: &str) -> String {
    let tensor = |name: &str, data: &str| {
        format!(r#"{{"name": "{name}", "datatype": "FP32", "shape": [2], "data": [{data}]}}"#)
    };
    format!(r#"{{"cases": [{{"inputs": [{}], "outputs": [{}]}}]}}"#, tensor("x", "1, 2"), tensor("y", answer))
}

/// Something that happens to the files of a request.
type Damage<'a> = &'a dyn Fn(&ProbeRequest);

fn refused(verdict: Verdict) -> (String, String) {
    match verdict {
        Verdict::Refused { reason, message } => (reason, message),
        verdict => panic!("{verdict:?}"),
    }
}

#[tokio::test]
async fn a_good_model_is_accepted_with_and_without_cases() {
    let bench = Bench::new();
    assert_eq!(bench.verdict(&bench.request(&good())).await, Verdict::Accepted);
    let request = bench.request_with_cases(&good(), &cases("1, 2"));
    assert_eq!(bench.verdict(&request).await, Verdict::Accepted);
    assert_eq!(bench.kept().len(), 2, "each is remembered");
}

#[tokio::test]
async fn a_model_that_only_fails_on_zeros_is_accepted() {
    let bench = Bench::new();
    assert_eq!(bench.verdict(&bench.request(&models::fails_on_zeros())).await, Verdict::Accepted);
}

#[tokio::test]
async fn what_is_no_model_is_refused() {
    let bench = Bench::new();
    let model = good();
    for bytes in [&b""[..], b"junk", &model[..model.len() / 2]] {
        let (reason, message) = refused(bench.verdict(&bench.request(bytes)).await);
        assert_eq!(reason, "LoadFailed");
        assert!(message.starts_with("the runtime refuses the model: "), "{message}");
    }
}

#[tokio::test]
async fn cases_that_do_not_fit_are_told_from_cases_that_cannot_be_read() {
    let bench = Bench::new();
    for (cases, expected, said) in [
        (&*cases("1, 3"), "CasesFailed", "output \"y\" differs from the expected one at element 1"),
        (r#"{"cases": []}"#, "CasesUnreadable", "holds no case"),
        ("junk", "CasesUnreadable", "cannot be read"),
    ] {
        let (reason, message) = refused(bench.verdict(&bench.request_with_cases(&good(), cases)).await);
        assert_eq!(reason, expected);
        assert!(message.contains(said), "{message}");
    }
}

#[tokio::test]
async fn a_model_whose_input_could_never_be_held_is_refused() {
    let bench = Bench::new();
    let vast = Graph {
        nodes: vec![node("Shape", &["x"], &["y"], &[])],
        inputs: vec![value("x", &tensor_type(Element::Float, &[1 << 20, 1 << 20]))],
        outputs: vec![value("y", &tensor_type(Element::Int64, &[2]))],
        ..Graph::default()
    };
    let (reason, message) = refused(bench.verdict(&bench.request(&vast.model())).await);
    assert_eq!(reason, "ProbeRefused");
    assert!(message.starts_with("input \"x\" alone would take more than the 528 MiB"), "{message}");
}

#[tokio::test]
async fn files_that_were_damaged_or_removed_are_told_and_nothing_is_remembered() {
    let bench = Bench::new();
    let with_cases = || bench.request_with_cases(&good(), &cases("1, 2"));
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[10] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let damages: [(&str, Damage<'_>); 4] = [
        ("the model", &|request| flip(&request.model.path)),
        ("its cases", &|request| flip(&request.cases.as_ref().unwrap().path)),
        ("no model", &|request| fs::remove_file(&request.model.path).unwrap()),
        ("no cases", &|request| fs::remove_file(&request.cases.as_ref().unwrap().path).unwrap()),
    ];
    for (what, damage) in damages {
        let request = with_cases();
        damage(&request);
        let found = bench.probe(&request).await;
        assert!(matches!(found, Err(ProbeError::Damaged)), "{what}: {found:?}");
    }
    assert_eq!(bench.kept(), [""; 0].map(PathBuf::from));
    assert_eq!(bench.verdict(&with_cases()).await, Verdict::Accepted);
}

#[tokio::test]
async fn a_model_that_takes_too_much_memory_at_load_is_given_up() {
    let bench = Bench::new();
    let bomb = models::bomb_at_load();
    assert!(bomb.len() < 100, "{} bytes", bomb.len());
    let message = bench.death(&bench.request(&bomb)).await;
    assert!(message.starts_with("the model needs more memory than it may use, 528 MiB"), "{message}");
    let message = bench.death(&bench.request(&models::bomb_from_a_constant())).await;
    assert!(message.starts_with("the model needs more memory than it may use, 528 MiB"), "{message}");
}

#[tokio::test]
async fn a_model_that_takes_too_much_memory_at_its_first_run_is_given_up() {
    let bench = Bench::new();
    let request = bench.request(&models::bomb_at_run(models::BOMB));
    let message = bench.death(&request).await;
    assert!(message.starts_with("the model needs more memory than it may use, 528 MiB"), "{message}");
    assert!(message.contains("; its last words: "), "{message}");
}

#[tokio::test]
async fn a_model_that_takes_too_much_memory_on_its_cases_is_given_up() {
    let mut bench = Bench::new();
    let tensor = |name: &str, kind: &str| {
        format!(r#"{{"name": "{name}", "datatype": "{kind}", "shape": [1], "data": [0]}}"#)
    };
    let (x, y) = (tensor("x", "INT64"), tensor("y", "FP32"));
    let cases = format!(r#"{{"cases": [{{"inputs": [{x}], "outputs": [{y}]}}]}}"#);
    let request = bench.request_with_cases(&models::bomb_at_run(40_000_000), &cases);
    bench.prober.limits.data_bytes = 64 << 20;
    let message = bench.death(&request).await;
    assert!(message.starts_with("the model needs more memory than it may use, 80 MiB"), "{message}");

    // It is the limit that it died of.
    bench.prober.limits = Limits::default();
    bench.now += 10 * MINUTE;
    let (reason, message) = refused(bench.verdict(&request).await);
    assert_eq!(reason, "CasesFailed");
    assert!(message.contains("output \"y\" is FP32 [40000000], expected FP32 [1]"), "{message}");
}

#[tokio::test]
async fn a_model_that_never_ends_is_given_up_when_its_processor_time_is_over() {
    let mut bench = Bench::new();
    bench.prober.limits.cpu_seconds = 1;
    let message = bench.death(&bench.request(&models::endless())).await;
    assert!(message.starts_with("trying the model took too much time; it may use 528 MiB"), "{message}");
    assert!(message.contains(" and 1 s of processor time"), "{message}");
}

#[tokio::test]
async fn a_child_that_hangs_is_killed_when_patience_is_over() {
    let mut bench = Bench::with("hanging");
    bench.prober.limits.patience = Duration::from_secs(1);
    let lives = UnixListener::bind(bench.prober.program.with_extension("socket")).unwrap();
    let begun = Instant::now();
    let message = bench.death(&bench.request(&good())).await;
    assert!(begun.elapsed() < SOON);
    assert!(message.starts_with("the time for trying the model was over after 1 s"), "{message}");
    lives.set_nonblocking(true).unwrap();
    let (mut connection, _) = lives.accept().expect("the child was alive");
    connection.set_read_timeout(Some(SOON)).unwrap();
    // A signal that other children end may interrupt one read, and not this one.
    assert_eq!(connection.read_to_end(&mut Vec::new()).expect("the child ends"), 0);
}

#[tokio::test]
async fn a_child_that_goes_wrong_is_told_with_its_last_words() {
    for (name, expected) in [
        (
            "garbage",
            "(exit status: 0) without a finding; it may use 528 MiB of memory and 20 s of processor time; its last words: I really do; tried once, again after 10 min",
        ),
        ("talkative", "; its last words: [31mlast words; tried once"),
        ("killed", "the process that tried the model was killed"),
        ("aborted", "trying the model killed its process with signal 6; it may use"),
        ("deaf", "trying the model ended its process (exit status: 1)"),
    ] {
        let bench = Bench::with(name);
        let message = bench.death(&bench.request(&good())).await;
        assert!(message.contains(expected), "{name}: {message}");
        assert_eq!(message.lines().count(), 1);
    }
}

#[tokio::test]
async fn a_child_that_does_not_even_listen_is_told_by_its_end() {
    let mut bench = Bench::with("deaf");
    // More than a pipe holds, so that telling it fails.
    bench.prober.library = "x".repeat(1 << 20).into();
    let message = bench.death(&bench.request(&good())).await;
    assert!(message.contains("(exit status: 1)"), "{message}");
}

#[tokio::test]
async fn what_is_not_about_the_model_is_no_verdict() {
    let interrupted = Bench::with("terminated");
    let found = interrupted.probe(&interrupted.request(&good())).await;
    assert!(matches!(found, Err(ProbeError::Interrupted)), "{found:?}");

    let mut without_runtime = Bench::new();
    without_runtime.prober.library = "/nowhere/libonnxruntime.so".into();
    let found = without_runtime.probe(&without_runtime.request(&good())).await;
    let Err(ProbeError::Unable { message }) = found else { panic!("{found:?}") };
    assert!(message.contains("/nowhere/libonnxruntime.so"), "{message}");

    let mut without_program = Bench::new();
    without_program.starts_nothing();
    let found = without_program.probe(&without_program.request(&good())).await;
    assert!(matches!(found, Err(ProbeError::Start(_))), "{found:?}");

    for bench in [interrupted, without_runtime, without_program] {
        assert_eq!(bench.kept(), [""; 0].map(PathBuf::from));
    }
}

#[tokio::test]
async fn what_is_known_of_a_model_is_not_asked_again() {
    let mut bench = Bench::new();
    let (accepted, junk) = (bench.request(&good()), bench.request_with_cases(&good(), "junk"));
    let verdicts = (bench.verdict(&accepted).await, bench.verdict(&junk).await);
    bench.starts_nothing();
    bench.now += 1000 * 24 * 60 * MINUTE;
    assert_eq!((bench.verdict(&accepted).await, bench.verdict(&junk).await), verdicts);

    // Whatever a verdict depends on makes it another one.
    let more_threads = ProbeRequest { threads: 2, ..accepted.clone() };
    let stricter = ProbeRequest { tolerance: 0.0, ..accepted.clone() };
    let another_provider = ProbeRequest {
        providers: vec![ExecutionProvider {
            kind: ProviderKind::OpenVino,
            options: BTreeMap::new(),
            required: false,
        }],
        ..accepted.clone()
    };
    let another_runtime = {
        let mut bench = Bench { prober: bench.prober.clone(), ..Bench::new() };
        bench.prober.runtime = "another".to_owned();
        bench
    };
    for (bench, request) in [
        (&bench, &more_threads),
        (&bench, &stricter),
        (&bench, &another_provider),
        (&another_runtime, &accepted),
    ] {
        let found = bench.probe(request).await;
        assert!(matches!(found, Err(ProbeError::Start(_))), "{found:?}");
    }

    // What an older agent wrote, or half a disk, is not known.
    for content in [r#""Accepted""#, "", "junk"] {
        bench.kept().iter().for_each(|path| fs::write(path, content).unwrap());
        let found = bench.probe(&accepted).await;
        assert!(matches!(found, Err(ProbeError::Start(_))), "{content}: {found:?}");
    }
}

#[tokio::test]
async fn a_death_is_remembered_for_a_while_and_then_tried_again() {
    let mut bench = Bench::with("killed");
    let request = bench.request(&good());
    let first = bench.death(&request).await;
    assert!(first.ends_with("; tried once, again after 10 min"), "{first}");

    bench.starts_nothing();
    bench.now += 9 * MINUTE;
    assert_eq!(bench.death(&request).await, first);
    bench.now += MINUTE;
    let found = bench.probe(&request).await;
    assert!(matches!(found, Err(ProbeError::Start(_))), "{found:?}");

    bench.prober.program = bench.dir.path().join("killed");
    let second = bench.death(&request).await;
    assert!(second.ends_with("; tried 2 times, again after 20 min"), "{second}");
    bench.now += 19 * MINUTE;
    assert_eq!(bench.death(&request).await, second);

    bench.now += MINUTE;
    bench.prober.program = CHILD.into();
    assert_eq!(bench.verdict(&request).await, Verdict::Accepted);
    assert_eq!(bench.kept().len(), 1);
}

#[tokio::test]
async fn a_child_inherits_no_environment_and_no_port() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&port));
    let socket = fs::read_link(link).unwrap();
    let socket = socket.to_str().unwrap();
    assert!(socket.starts_with("socket:["), "{socket}");
    let bench = Bench::with("curious");
    let message = bench.death(&bench.request(&good())).await;
    assert!(message.contains("; its last words: environment [], open pipe:["), "{message}");
    assert!(!message.contains(socket), "{message}");
}

/// What a child said and printed, and how it ended.
struct Tried {
    said: String,
    printed: String,
    status: ExitStatus,
}

/// Tells a child that this test starts itself to try a model, with more than enough of everything.
async fn tried_by(mut child: tokio::process::Command, request: &ProbeRequest, parent: u32) -> Tried {
    let orders = serde_json::json!({
        "library": support::library(),
        "request": request,
        "allowance": {
            "data_bytes": 1 << 30,
            "cpu_seconds": 99,
            "patience": Duration::from_secs(99),
        },
        "parent": parent,
    });
    let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = child.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(orders.to_string().as_bytes()).await.unwrap();
    drop(stdin);
    let output = timeout(SOON, child.wait_with_output()).await.expect("the child ends").unwrap();
    let [said, printed] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    Tried { said, printed, status: output.status }
}

fn probe_child() -> tokio::process::Command {
    let mut child = tokio::process::Command::new(CHILD);
    child.arg(SUBCOMMAND);
    child
}

#[tokio::test]
async fn a_child_prints_the_errors_of_the_runtime_and_nothing_else() {
    let bench = Bench::new();
    for (model, errors) in [(good(), 0), (models::fails_on_zeros(), 1)] {
        let tried = tried_by(probe_child(), &bench.request(&model), std::process::id()).await;
        assert_eq!(tried.said, r#"{"Verdict":"Accepted"}"#);
        let lines: Vec<&str> = tried.printed.lines().collect();
        assert_eq!(lines.len(), errors, "{lines:?}");
        assert!(lines.iter().all(|line| line.starts_with("Non-zero status code returned")), "{lines:?}");
    }
}

#[tokio::test]
async fn a_child_whose_agent_is_gone_does_not_begin() {
    let bench = Bench::new();
    let tried = tried_by(probe_child(), &bench.request(&good()), 1).await;
    assert!(tried.said.contains("the agent that asked is gone"), "{}", tried.said);
}

#[tokio::test]
async fn a_child_that_is_limited_already_stays_within_that() {
    let bench = Bench::new();
    let mut child = tokio::process::Command::new("sh");
    child.args(["-c", &format!("ulimit -t 1 && exec \"$0\" {SUBCOMMAND}"), CHILD]);
    let request = bench.request(&models::endless());
    let tried = tried_by(child, &request, std::process::id()).await;
    assert_eq!((&*tried.said, &*tried.printed), ("", ""));
    let (xcpu, kill) = (24, 9);
    assert!([Some(xcpu), Some(kill)].contains(&tried.status.signal()), "{}", tried.status);
}

#[tokio::test]
async fn a_child_does_not_outlive_the_agent() {
    let bench = Bench::new();
    let request = bench.request(&models::endless());
    let mut agent = Command::new(CHILD)
        .args([&bench.prober.library, &request.model.path, Path::new(&request.model.sha256)])
        .arg(&bench.prober.verdicts)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let child = timeout(SOON, limited_child_of(agent.id())).await.expect("a child that has limited itself");
    assert!(Path::new(&format!("/proc/{child}")).exists());

    agent.kill().unwrap();
    agent.wait().unwrap();
    // The pipe ends when the last process that holds it is gone.
    let mut pipe = tokio::process::ChildStdout::from_std(agent.stdout.take().unwrap()).unwrap();
    let ended = timeout(SOON, tokio::io::AsyncReadExt::read(&mut pipe, &mut [0; 8])).await;
    assert_eq!(ended.expect("the child ends").unwrap(), 0);
}

/// The child of a process, once it has the limit that `probe_child.rs` gives it.
async fn limited_child_of(parent: u32) -> String {
    loop {
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let read = |file: &str| fs::read_to_string(process.path().join(file)).unwrap_or_default();
            let is_child = read("status").lines().any(|line| line == format!("PPid:\t{parent}"));
            let limits = read("limits");
            let cpu = limits.lines().find(|line| line.starts_with("Max cpu time")).unwrap_or_default();
            if is_child && cpu.split_whitespace().nth(3) == Some("99") {
                return process.file_name().into_string().unwrap();
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
