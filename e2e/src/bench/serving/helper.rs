//! A process that says `ready …` and ends with its standard input.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// It runs. Ended when dropped.
pub struct Helper(Child);

impl Helper {
    /// Runs it until it is ready; what it says then. Its errors are told only where it never is.
    pub fn start(mut command: Command) -> Result<(Self, String)> {
        let mut log: File = tempfile::tempfile()?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let said = child.stdout.take().context("no output")?;
        let helper = Self(child);
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        if let Some(ready) = line.trim().strip_prefix("ready ") {
            return Ok((helper, ready.to_owned()));
        }
        drop(helper);
        let mut text = String::new();
        log.rewind()?;
        log.read_to_string(&mut text)?;
        bail!("not ready: {}", text.lines().last().unwrap_or_default())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It ends by itself, and ends what it started.
        let _ = self.0.wait();
    }
}
