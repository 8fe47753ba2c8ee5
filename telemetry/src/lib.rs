//! Logs of the two binaries: where they go, how they look, and which of them are written.
//!
//! Called once, from `main`. Libraries only emit `tracing` events and never import this crate.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// The format with this name.
    pub fn parse(name: &str) -> Result<Self, &'static str> {
        match name {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected text or json"),
        }
    }
}

/// Why logging could not be set up, or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter cannot be read.
    #[error(
        "the log filter cannot be read; use a level (info) or target=level pairs (warn,terrace_agent=debug)"
    )]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Something else in this process writes logs already.
    #[error("logging is set up already")]
    Taken(#[source] tracing_subscriber::util::TryInitError),
    /// The process is shutting down.
    #[error("logging has ended")]
    Gone(#[source] reload::Error),
}

/// Changes which log lines are written, while the process runs.
#[derive(Clone, Debug)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// Replaces the filter.
    pub fn set(&self, filter: &str) -> Result<(), Error> {
        let filter = EnvFilter::try_new(filter).map_err(Error::Filter)?;
        self.0.reload(filter).map_err(Error::Gone)
    }
}

/// Sends the process's logs to standard error.
pub fn init(filter: &str, format: Format) -> Result<LogFilter, Error> {
    let filter = EnvFilter::try_new(filter).map_err(Error::Filter)?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(Error::Taken)?;
    Ok(LogFilter(handle))
}
