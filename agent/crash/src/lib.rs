//! What ran when native code crashed: whoever runs something dangerous says so before, and a crash writes down what that
//! was. The next process reads it, and need not walk into the same again.
//!
//! Called by the agent, which names models by their digests. Knows no models, and must not allocate, lock or log where a
//! signal could find it doing so.

mod handler;
mod running;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::IntoRawFd as _;
use std::path::Path;

pub use running::{LABEL, Label, Running, Slot};

/// A crash, as its process wrote it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// What ran: where the crash came from a thread that had not said, all that ran anywhere.
    pub label: String,
    /// The signal.
    pub signal: String,
}

/// From now on a crash of this process is written behind what is in this file.
///
/// # Errors
///
/// Where the file cannot be written, or the system takes no signal handler.
pub fn record_in(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    // Open for as long as the process lives.
    handler::install(file.into_raw_fd())
}

/// The crashes in a file, none where there is no such file. What is no crash is passed over.
///
/// # Errors
///
/// Where there is such a file and it cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Crash>> {
    /// More than all slots could write.
    const MOST: u64 = 1 << 20;
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MOST).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&text);
    let crash = |line: &str| {
        let (label, signal) = line.split_once(' ')?;
        let is_whole = label.len() == LABEL && signal.len() == 2;
        let name = handler::NAMES.iter().find(|(number, _)| signal.parse() == Ok(*number))?.1;
        is_whole.then(|| Crash { label: label.to_owned(), signal: name.to_owned() })
    };
    Ok(text.lines().filter_map(crash).collect())
}
