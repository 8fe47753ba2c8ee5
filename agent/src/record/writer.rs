//! Writes records on a thread of its own. A request never waits for it: what the thread cannot take in time is not
//! recorded, and counted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tracing::warn;

use super::Record;

/// Records that may wait for the disk.
const QUEUE: usize = 1024;

/// Where records go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file that is appended to. What it held before is kept beside it as `FILE.1`, once it is full.
    pub file: PathBuf,
    /// How large it may become.
    pub max_bytes: u64,
}

/// Takes records. The thread ends with the last of its recorders.
#[derive(Debug)]
pub struct Recorder {
    queue: SyncSender<Box<Record>>,
}

impl Recorder {
    /// Starts the thread, which opens the file.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let mut pages = Pages::open(settings)?;
        let (queue, records) = sync_channel(QUEUE);
        std::thread::Builder::new().name("record".to_owned()).spawn(move || pages.follow(&records))?;
        Ok(Self { queue })
    }

    /// Has a record written some time; false where the thread cannot take it.
    pub fn record(&self, record: Record) -> bool {
        self.queue.try_send(Box::new(record)).is_ok()
    }
}

/// The file, and the one before it.
struct Pages {
    settings: Settings,
    file: BufWriter<File>,
    bytes: u64,
    /// Something could not be written, and that was said.
    is_broken: bool,
}

impl Pages {
    fn open(settings: Settings) -> io::Result<Self> {
        let (file, bytes) = open(&settings.file)?;
        Ok(Self { settings, file, bytes, is_broken: false })
    }

    fn follow(&mut self, records: &Receiver<Box<Record>>) {
        while let Ok(record) = records.recv() {
            let mut written = self.write(&record);
            while written.is_ok()
                && let Ok(record) = records.try_recv()
            {
                written = self.write(&record);
            }
            let written = written.and_then(|()| self.file.flush());
            match written {
                Ok(()) => self.is_broken = false,
                Err(error) if !self.is_broken => {
                    self.is_broken = true;
                    warn!(file = %self.settings.file.display(), %error, "decisions cannot be recorded; serving goes on");
                }
                Err(_) => {}
            }
        }
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let length = line.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.settings.max_bytes {
            self.turn()?;
        }
        self.bytes += length;
        self.file.write_all(&line)
    }

    /// Begins a new page; the one before the last is gone.
    fn turn(&mut self) -> io::Result<()> {
        self.file.flush()?;
        fs::rename(&self.settings.file, previous(&self.settings.file))?;
        (self.file, self.bytes) = open(&self.settings.file)?;
        Ok(())
    }
}

fn open(file: &Path) -> io::Result<(BufWriter<File>, u64)> {
    let opened = OpenOptions::new().create(true).append(true).open(file)?;
    let bytes = opened.metadata()?.len();
    Ok((BufWriter::new(opened), bytes))
}

fn previous(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use terrace_crds::Tier;

    use super::*;
    use crate::record::Happened;

    fn record(code: u16) -> Record {
        Record {
            time: Timestamp::UNIX_EPOCH,
            model: "default.digits".to_owned(),
            node: Tier::Device,
            private: true,
            request: None,
            state: None,
            decision: None,
            happened: Happened { code, ..Happened::default() },
        }
    }

    fn codes(file: &Path) -> Vec<u16> {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str::<Record>(line).unwrap().happened.code).collect()
    }

    #[test]
    fn a_full_file_makes_room_and_no_more_than_two_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("decisions.jsonl");
        let length = serde_json::to_vec(&record(100)).unwrap().len() as u64 + 1;
        let mut pages = Pages::open(Settings { file: file.clone(), max_bytes: 3 * length }).unwrap();
        for code in 100..108 {
            pages.write(&record(code)).unwrap();
        }
        pages.file.flush().unwrap();
        assert_eq!(codes(&file), [106, 107]);
        assert_eq!(codes(&previous(&file)), [103, 104, 105]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_agent_that_begins_again_goes_on_in_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("decisions.jsonl");
        for code in [200, 503] {
            let mut pages = Pages::open(Settings { file: file.clone(), max_bytes: 1 << 20 }).unwrap();
            let (queue, records) = sync_channel(1);
            queue.send(Box::new(record(code))).unwrap();
            drop(queue);
            pages.follow(&records);
        }
        assert_eq!(codes(&file), [200, 503]);
    }

    #[test]
    fn a_queue_that_is_full_takes_nothing_and_waits_for_nothing() {
        let (queue, _records) = sync_channel(1);
        let recorder = Recorder { queue };
        assert!(recorder.record(record(200)));
        assert!(!recorder.record(record(200)));
    }
}
