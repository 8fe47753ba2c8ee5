//! Verdicts on disk, and how long they hold.
//!
//! What a model is does not change, so a verdict on that holds for ever. That its process died may have been the
//! machine's fault: such a verdict holds for a while, longer each time it is found again.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Verdict;

/// How long the first death counts.
const FIRST: Duration = Duration::from_secs(10 * 60);
/// The longest that any does.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// How many verdicts are kept.
const MOST: usize = 256;

/// What is kept of a verdict. A file in another form than this one is as good as none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    verdict: Verdict,
    /// How often its process has died in a row.
    deaths: u32,
    /// When this was found, in seconds since 1970.
    at: u64,
}

/// Whether a verdict still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Holds,
    /// The model is to be tried again.
    Expired,
}

impl Record {
    /// What to keep of a verdict found at `now`, after what was known `before`.
    pub fn new(before: Option<&Self>, verdict: Verdict, now: SystemTime) -> Self {
        let deaths = match verdict {
            Verdict::Died { .. } => before.map_or(0, |before| before.deaths).saturating_add(1),
            Verdict::Accepted | Verdict::Compared(_) | Verdict::Refused { .. } => 0,
        };
        Self { verdict, deaths, at: seconds(now) }
    }

    /// Whether it still counts at the time `now`.
    pub fn standing(&self, now: SystemTime) -> Standing {
        let Verdict::Died { .. } = self.verdict else { return Standing::Holds };
        // A clock that has gone back since, as one without a battery does, says nothing of how long ago that was.
        let age = seconds(now).checked_sub(self.at).map(Duration::from_secs);
        match age {
            Some(age) if age < wait(self.deaths) => Standing::Holds,
            _ => Standing::Expired,
        }
    }

    /// The verdict, as it is told while it holds.
    pub fn tell(&self) -> Verdict {
        match &self.verdict {
            Verdict::Died { message } => {
                let (deaths, minutes) = (self.deaths, wait(self.deaths).as_secs() / 60);
                let times = if deaths == 1 { "once".to_owned() } else { format!("{deaths} times") };
                Verdict::Died { message: format!("{message}; tried {times}, again after {minutes} min") }
            }
            verdict => verdict.clone(),
        }
    }
}

/// How long a verdict holds after this many deaths in a row: doubling from ten minutes to a day.
fn wait(deaths: u32) -> Duration {
    let doubled = 1_u32.checked_shl(deaths.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST.saturating_mul(doubled).min(LONGEST)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What is kept, if it can be read.
pub fn read(path: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Keeps a record, whole or not at all, and drops the oldest beyond the most that are kept.
pub fn write(path: &Path, record: &Record) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder)?;
    // By one name: what a killed process left half-written becomes the next record.
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    drop_oldest(folder, path)?;
    fs::File::open(folder)?.sync_all()
}

/// Removes the oldest files. By the disk's clock, which may have
/// been wrong, so that `newest` is named.
fn drop_oldest(folder: &Path, newest: &Path) -> io::Result<()> {
    let mut others: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path() != newest {
            others.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    others.sort_unstable();
    let surplus = (others.len() + 1).saturating_sub(MOST);
    others[..surplus].iter().try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn at(since: Duration) -> SystemTime {
        UNIX_EPOCH + 20_000 * DAY + since
    }

    fn died() -> Verdict {
        Verdict::Died { message: "it died".to_owned() }
    }

    fn refused() -> Verdict {
        Verdict::Refused { reason: "LoadFailed".to_owned(), message: "junk".to_owned() }
    }

    #[test]
    fn a_death_counts_for_longer_each_time_up_to_a_day() {
        let mut now = at(Duration::ZERO);
        let mut known = None;
        let mut waits = Vec::new();
        for _ in 0..10 {
            let record = Record::new(known.as_ref(), died(), now);
            let holds = wait(record.deaths);
            let second = Duration::from_secs(1);
            assert_eq!(record.standing(now), Standing::Holds);
            assert_eq!(record.standing(now + holds - second), Standing::Holds);
            assert_eq!(record.standing(now + holds), Standing::Expired);
            waits.push(holds.as_secs() / 60);
            now += holds;
            known = Some(record);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440]);
        assert_eq!(wait(u32::MAX), DAY);
    }

    #[test]
    fn a_verdict_on_the_model_itself_holds_for_ever() {
        let now = at(Duration::ZERO);
        for verdict in [Verdict::Accepted, refused()] {
            let record = Record::new(None, verdict.clone(), now);
            for later in [now, now + 10_000 * DAY, UNIX_EPOCH] {
                assert_eq!(record.standing(later), Standing::Holds);
            }
            assert_eq!(record.tell(), verdict);
        }
    }

    #[test]
    fn deaths_are_counted_in_a_row() {
        let now = at(Duration::ZERO);
        let told = |record: &Record| match record.tell() {
            Verdict::Died { message } => message,
            verdict => panic!("{verdict:?}"),
        };
        let first = Record::new(None, died(), now);
        assert_eq!(told(&first), "it died; tried once, again after 10 min");
        let second = Record::new(Some(&first), died(), now);
        assert_eq!(told(&second), "it died; tried 2 times, again after 20 min");
        let accepted = Record::new(Some(&second), Verdict::Accepted, now);
        assert_eq!(told(&Record::new(Some(&accepted), died(), now)), told(&first));
    }

    #[test]
    fn a_clock_that_went_back_does_not_keep_a_death_for_years() {
        let record = Record::new(None, died(), at(Duration::ZERO));
        assert_eq!(record.standing(at(Duration::ZERO) - MINUTE), Standing::Expired);
        assert_eq!(record.standing(UNIX_EPOCH), Standing::Expired);
        let before_1970 = UNIX_EPOCH - DAY;
        assert_eq!(Record::new(None, died(), before_1970).standing(before_1970), Standing::Holds);
    }

    #[test]
    fn what_was_written_is_read_and_another_form_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("verdicts/abc");
        assert_eq!(read(&path), None);
        for verdict in [Verdict::Accepted, refused(), died()] {
            let record = Record::new(None, verdict, at(MINUTE));
            write(&path, &record).unwrap();
            assert_eq!(read(&path), Some(record));
        }
        let before = r#"{"Refused": {"reason": "ProbeRefused", "message": "it died"}}"#;
        let newer = r#"{"verdict": "Accepted", "deaths": 0, "at": 0, "more": 1}"#;
        for content in ["\"Accepted\"", before, newer, "", "{", "\0"] {
            fs::write(&path, content).unwrap();
            assert_eq!(read(&path), None, "{content}");
        }
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn the_oldest_verdicts_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let old = |number: u32| dir.path().join(format!("old{number}"));
        for number in 0..300 {
            let file = fs::File::create(old(number)).unwrap();
            // The names are no help.
            file.set_modified(at(MINUTE * (number * 7 % 300))).unwrap();
        }
        let new = dir.path().join("new");
        let record = Record::new(None, Verdict::Accepted, at(DAY));
        write(&new, &record).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), MOST);
        for number in 0..300 {
            assert_eq!(old(number).exists(), number * 7 % 300 >= 45, "{number}");
        }
        // On a disk from the future, what was just written is not the one to go.
        for file in fs::read_dir(dir.path()).unwrap() {
            fs::File::open(file.unwrap().path())
                .unwrap()
                .set_modified(SystemTime::now() + 100 * DAY)
                .unwrap();
        }
        write(&dir.path().join("newer"), &record).unwrap();
        assert_eq!(read(&dir.path().join("newer")), Some(record));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), MOST);
    }
}
