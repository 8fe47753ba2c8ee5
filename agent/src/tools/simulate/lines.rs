//! The records of a file, one a line. A line that is none is counted: it may be torn, or another version's.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};

use crate::record::Record;
use crate::tools::STDIN;

/// The longest line that is read.
const MOST_LINE: u64 = 1 << 20;

/// The lines of a file.
pub(super) struct Lines {
    file: String,
    reader: Box<dyn BufRead>,
    number: usize,
    unreadable: usize,
    first: Option<String>,
}

impl Lines {
    /// Opens a file, or standard input.
    pub(super) fn open(file: &str) -> anyhow::Result<Self> {
        let reader: Box<dyn BufRead> = if file == STDIN {
            Box::new(io::stdin().lock())
        } else {
            let opened =
                File::open(file).map_err(|error| anyhow::anyhow!("{file} cannot be read: {error}"))?;
            Box::new(BufReader::new(opened))
        };
        Ok(Self { file: file.to_owned(), reader, number: 0, unreadable: 0, first: None })
    }

    /// The next record.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Record>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            self.number += 1;
            let read = (&mut self.reader).take(MOST_LINE + 1).read_until(b'\n', &mut line);
            let read = read.map_err(|error| anyhow::anyhow!("{}:{}: {error}", self.file, self.number))?;
            if read == 0 {
                return Ok(None);
            }
            if read as u64 > MOST_LINE {
                anyhow::bail!("{}:{}: is longer than {MOST_LINE} bytes", self.file, self.number);
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match serde_json::from_slice(&line) {
                Ok(record) => return Ok(Some(record)),
                Err(error) => {
                    self.unreadable += 1;
                    self.first.get_or_insert_with(|| format!("{}: {error}", self.number));
                }
            }
        }
    }

    /// How many lines were no records so far.
    pub(super) const fn unreadable(&self) -> usize {
        self.unreadable
    }

    /// The number of the first of them, and what is wrong with it.
    pub(super) fn first_unreadable(&self) -> Option<&str> {
        self.first.as_deref()
    }
}
