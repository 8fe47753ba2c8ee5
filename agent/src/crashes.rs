//! Artifacts that ran when the agent crashed, kept on disk, and for how long each is held back: a crash must not become
//! a loop of them.
//!
//! `terrace_crash` writes down what ran; the next agent reads it here, once, before it loads anything.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use terrace_fleet::Sha256;
use tracing::{error, warn};

/// How long the first crash holds an artifact back. Long enough for others to be served, short enough for one that was
/// not to blame.
const FIRST: Duration = Duration::from_secs(60);
/// The longest that any does. A crash this long after the one before is a first one again.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// How many artifacts are remembered.
const MOST: usize = 256;
/// What the crashing process writes to.
const RECORD: &str = "last";
/// What is remembered.
const KNOWN: &str = "known.json";

/// What is known of earlier crashes.
#[derive(Debug, Default)]
pub struct Crashes(BTreeMap<String, Crashed>);

/// The crashes of one artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Crashed {
    /// How many in a row.
    crashes: u32,
    /// The last one, in seconds since 1970, as far as the next process can tell.
    at: u64,
    /// What it died of.
    signal: String,
}

/// An artifact that is not to be loaded yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the agent crashed with {signal} while it ran this model: not loaded again for {} s after the {} (the requests that it had then are the first suspects)",
    wait.as_secs(), ordinal(*crashes)
)]
pub struct HeldBack {
    signal: String,
    crashes: u32,
    wait: Duration,
}

impl Crashes {
    /// Takes note of how the process before this one ended, if it crashed, and has a crash of this one written down. Where
    /// that cannot be done the agent serves all the same.
    pub fn open(folder: &Path, now: SystemTime) -> Self {
        let known = fs::create_dir_all(folder).and_then(|()| Self::take_note(folder, now));
        let known = known.unwrap_or_else(|error| {
            warn!(%error, folder = %folder.display(), "what crashed before cannot be kept: a model that crashes the agent is loaded again at once");
            Self::default()
        });
        if let Err(error) = terrace_crash::record_in(&folder.join(RECORD)) {
            warn!(%error, "a crash would not be written down");
        }
        known
    }

    fn take_note(folder: &Path, now: SystemTime) -> io::Result<Self> {
        let path = folder.join(KNOWN);
        let mut known = Self::read(&path)?;
        let record = folder.join(RECORD);
        let crashes = terrace_crash::read(&record)?;
        if crashes.is_empty() {
            return Ok(known);
        }
        for crash in &crashes {
            known.count(&crash.label, &crash.signal, now);
        }
        for (sha256, crashed) in crashes.iter().filter_map(|crash| known.0.get_key_value(&crash.label)) {
            error!(
                sha256, signal = crashed.signal, crashes = crashed.crashes, held_back = ?wait(crashed.crashes),
                "the agent crashed while it ran this model, which is held back now"
            );
        }
        known.write(&path)?;
        File::create(record)?;
        Ok(known)
    }

    /// Anything unreadable is as good as nothing: it must not keep an agent from serving.
    fn read(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(known) => Ok(Self(serde_json::from_slice(&known).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(&self.0)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    fn count(&mut self, sha256: &str, signal: &str, now: SystemTime) {
        let at = seconds(now);
        let before = self.0.get(sha256).filter(|before| age(before, now).is_some_and(|age| age < LONGEST));
        let crashes = before.map_or(0, |before| before.crashes).saturating_add(1);
        self.0.insert(sha256.to_owned(), Crashed { crashes, at, signal: signal.to_owned() });
        while self.0.len() > MOST {
            let oldest =
                self.0.iter().min_by_key(|(_, crashed)| crashed.at).map(|(sha256, _)| sha256.clone());
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
    }

    /// Whether an artifact may be loaded at the time `now`.
    pub fn check(&self, sha256: &Sha256, now: SystemTime) -> Result<(), HeldBack> {
        let Some(crashed) = self.0.get(&sha256.to_string()) else { return Ok(()) };
        let wait = wait(crashed.crashes);
        match age(crashed, now) {
            Some(age) if age < wait => {
                Err(HeldBack { signal: crashed.signal.clone(), crashes: crashed.crashes, wait })
            }
            _ => Ok(()),
        }
    }
}

/// How long ago it was. None where the clock has gone back since, as one without a battery does: that says nothing.
fn age(crashed: &Crashed, now: SystemTime) -> Option<Duration> {
    seconds(now).checked_sub(crashed.at).map(Duration::from_secs)
}

/// How long so many crashes in a row hold an artifact back: doubling.
fn wait(crashes: u32) -> Duration {
    let doubled = 1_u32.checked_shl(crashes.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST.saturating_mul(doubled).min(LONGEST)
}

fn ordinal(crashes: u32) -> String {
    match crashes {
        1 => "first such crash".to_owned(),
        crashes => format!("last of {crashes} such crashes"),
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = LONGEST;
    const SECOND: Duration = Duration::from_secs(1);

    fn noon() -> SystemTime {
        UNIX_EPOCH + 20_000 * DAY
    }

    fn model() -> Sha256 {
        Sha256::of(b"a model")
    }

    fn crashed_at(times: &[SystemTime]) -> Crashes {
        let mut crashes = Crashes::default();
        for time in times {
            crashes.count(&model().to_string(), "SIGSEGV", *time);
        }
        crashes
    }

    #[test]
    fn each_crash_in_a_row_holds_back_for_longer_up_to_a_day() {
        let mut times = vec![noon()];
        let mut waits = Vec::new();
        for _ in 0..13 {
            let now = times[times.len() - 1];
            let crashes = crashed_at(&times);
            let held = crashes.check(&model(), now).unwrap_err();
            assert_eq!(crashes.check(&model(), now + held.wait - SECOND), Err(held.clone()));
            assert_eq!(crashes.check(&model(), now + held.wait), Ok(()));
            assert_eq!(crashes.check(&Sha256::of(b"another"), now), Ok(()));
            waits.push(held.wait.as_secs() / 60);
            times.push(now + held.wait);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1440, 1]);
        assert_eq!(wait(u32::MAX), DAY);
    }

    #[test]
    fn a_clock_that_went_back_holds_nothing_back() {
        let crashes = crashed_at(&[noon()]);
        assert_eq!(crashes.check(&model(), noon() - SECOND), Ok(()));
        assert_eq!(crashes.check(&model(), UNIX_EPOCH - DAY), Ok(()));
    }

    #[test]
    fn who_reads_it_learns_what_died_how_often_and_for_how_long() {
        let text = |times: &[SystemTime]| crashed_at(times).check(&model(), noon()).unwrap_err().to_string();
        assert_eq!(
            text(&[noon()]),
            "the agent crashed with SIGSEGV while it ran this model: not loaded again for 60 s after the first such \
             crash (the requests that it had then are the first suspects)"
        );
        assert!(text(&[noon() - SECOND, noon()]).contains("for 120 s after the last of 2 such crashes"));
    }

    #[test]
    fn the_oldest_crashes_are_forgotten() {
        let mut crashes = Crashes::default();
        let names: Vec<String> = (0..MOST as u64 + 10).map(|number| format!("{number:064}")).collect();
        for (name, second) in names.iter().rev().zip(0..) {
            crashes.count(name, "SIGABRT", noon() + second * SECOND);
        }
        assert_eq!(crashes.0.len(), MOST);
        assert!(crashes.0.keys().eq(&names[..MOST]));
    }

    #[test]
    fn what_a_process_wrote_is_counted_once_and_survives_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let note = |now| Crashes::take_note(folder, now).unwrap();
        assert_eq!(note(noon()).0, BTreeMap::new());
        fs::write(folder.join(RECORD), format!("{} 11\nhalf a li", model())).unwrap();
        for _ in 0..2 {
            let held = note(noon()).check(&model(), noon()).unwrap_err();
            assert_eq!(held, HeldBack { signal: "SIGSEGV".to_owned(), crashes: 1, wait: FIRST });
        }
        fs::write(folder.join(RECORD), format!("{} 06\n", model())).unwrap();
        let held = note(noon() + SECOND).check(&model(), noon() + SECOND).unwrap_err();
        assert_eq!(held, HeldBack { signal: "SIGABRT".to_owned(), crashes: 2, wait: 2 * FIRST });
        fs::write(folder.join(KNOWN), "junk").unwrap();
        assert_eq!(note(noon()).check(&model(), noon()), Ok(()));
    }
}
