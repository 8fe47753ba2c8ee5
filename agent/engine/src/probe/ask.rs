//! The agent's side of a probe: starts a child, tells it what to try, and makes sense of its answer or its end.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};

use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::child::{Finding, Orders};
use super::limits::Allowance;
use super::{ProbeError, ProbeRequest, Prober, SUBCOMMAND, Verdict, off_thread};

/// The most that a child may say.
const MAX_FINDING_BYTES: u64 = 64 << 10;
/// How much of what it printed is kept.
const MAX_PRINTED_BYTES: usize = 4 << 10;
/// How much of that is told.
const MAX_WORDS_CHARS: usize = 256;

/// What a child said and printed, and how it ended.
struct Ended {
    said: Vec<u8>,
    printed: Vec<u8>,
    status: ExitStatus,
}

/// What a child found, and whether that would be found again.
pub struct Found {
    /// What.
    pub verdict: Verdict,
    /// Whether it is worth remembering.
    pub lasts: bool,
}

impl Found {
    const fn lasting(verdict: Verdict) -> Self {
        Self { verdict, lasts: true }
    }
}

/// Has a child try a model.
pub async fn ask(prober: &Prober, request: &ProbeRequest) -> Result<Found, ProbeError> {
    let path = request.model.path.clone();
    let size = off_thread(move || fs::metadata(path)).await?.map_err(|_| ProbeError::Damaged)?.len();
    let allowance = prober.limits.of_model(size, request.threads, &request.providers);
    let orders = Orders {
        library: prober.library.clone(),
        request: request.clone(),
        allowance: allowance.clone(),
        parent: std::process::id(),
    };
    let orders = serde_json::to_vec(&orders).map_err(|error| ProbeError::Speak(error.into()))?;
    let mut child = Command::new(&prober.program)
        .arg(SUBCOMMAND)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(ProbeError::Start)?;
    match tokio::time::timeout(allowance.patience, converse(&mut child, &orders)).await {
        Ok(Ok(ended)) => make_sense(&ended, &allowance),
        Ok(Err(error)) => Err(ProbeError::Speak(error)),
        Err(_) => {
            let seconds = allowance.patience.as_secs_f32();
            let message =
                format!("the time for trying the model was over after {seconds} s; it may use {allowance}");
            Ok(Found::lasting(Verdict::Died { message }))
        }
    }
}

async fn converse(child: &mut Child, orders: &[u8]) -> io::Result<Ended> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let tell = async {
        let Some(mut stdin) = stdin else { return Ok(()) };
        match stdin.write_all(orders).await {
            // It ended before it listened: how, tells more.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            told => told,
        }
    };
    let listen = async {
        let mut said = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(MAX_FINDING_BYTES).read_to_end(&mut said).await?;
        }
        Ok(said)
    };
    let ((), said, printed) = tokio::try_join!(tell, listen, tail(stderr))?;
    Ok(Ended { said, printed, status: child.wait().await? })
}

/// The end of what a child prints. All of it is read, so that a full pipe does not stop the child.
async fn tail(mut printing: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut piece = [0; 1024];
    while let Some(printing) = &mut printing {
        let read = printing.read(&mut piece).await?;
        if read == 0 {
            break;
        }
        kept.extend_from_slice(&piece[..read]);
        let surplus = kept.len().saturating_sub(MAX_PRINTED_BYTES);
        kept.drain(..surplus);
    }
    Ok(kept)
}

fn make_sense(ended: &Ended, allowance: &Allowance) -> Result<Found, ProbeError> {
    let died = |message: String| Ok(Found::lasting(Verdict::Died { message }));
    match serde_json::from_slice(&ended.said) {
        Ok(Finding::Verdict(verdict)) => Ok(Found::lasting(verdict)),
        Ok(Finding::ForNow(verdict)) => Ok(Found { verdict, lasts: false }),
        Ok(Finding::Unplaced { reason, message }) => Err(ProbeError::Unplaced { reason, message }),
        Ok(Finding::Damaged) => Err(ProbeError::Damaged),
        Ok(Finding::Unable { message }) => Err(ProbeError::Unable { message }),
        Ok(Finding::OutOfMemory { words }) => {
            let words = last_words(words.as_bytes());
            died(format!("the model needs more memory than it may use, {allowance}{words}"))
        }
        Err(_) if was_told_to_end(ended.status) => Err(ProbeError::Interrupted),
        Err(_) => {
            let (how, words) = (how(ended.status), last_words(&ended.printed));
            died(format!("{how}; it may use {allowance}{words}"))
        }
    }
}

/// Whether somebody ended the child in an orderly way, as when the agent's whole group is told to end.
fn was_told_to_end(status: ExitStatus) -> bool {
    let orderly = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
    status.signal().is_some_and(|signal| orderly.iter().any(|orderly| orderly.as_raw() == signal))
}

/// How a child that said nothing ended.
fn how(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) if signal == Signal::XCPU.as_raw() => "trying the model took too much time".to_owned(),
        Some(signal) if signal == Signal::KILL.as_raw() => {
            "the process that tried the model was killed, for its time or for memory".to_owned()
        }
        Some(signal) => format!("trying the model killed its process with signal {signal}"),
        None => format!("trying the model ended its process ({status}) without a finding"),
    }
}

/// The last line that was printed, for the end of a message. It is of the model's publisher, so it may be shown, but
/// not trusted: one line, not long, and nothing in it that moves a cursor.
fn last_words(printed: &[u8]) -> String {
    let printed = String::from_utf8_lossy(printed);
    let is_hidden = |character: char| matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let clean = |line: &str| {
        let visible: String = line
            .chars()
            .map(|character| if character.is_control() { ' ' } else { character })
            .filter(|character| !is_hidden(*character))
            .collect();
        visible.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let last = printed.split('\n').rev().map(clean).find(|line| !line.is_empty());
    last.map_or_else(String::new, |line| {
        let line: String = line.chars().take(MAX_WORDS_CHARS).collect();
        format!("; its last words: {line}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_one_clean_line() {
        for (printed, expected) in [
            (&b""[..], ""),
            (b"\n \n\t\r\n", ""),
            (b"first\nlast", "; its last words: last"),
            (b"first\nlast\n\n \n", "; its last words: last"),
            (b"\x1b[31mred\x1b[m\ta\r\x07b\0c\n", "; its last words: [31mred [m a b c"),
            ("a\u{202e}b\u{85}c\u{feff}".as_bytes(), "; its last words: ab c"),
            (b"no \xff text", "; its last words: no \u{fffd} text"),
        ] {
            assert_eq!(last_words(printed), expected);
        }
        let long = last_words("ö".repeat(5000).as_bytes());
        assert_eq!(long, format!("; its last words: {}", "ö".repeat(MAX_WORDS_CHARS)));
    }

    #[tokio::test]
    async fn only_the_end_of_what_is_printed_is_kept() {
        let printed: Vec<u8> = (0..100_000_u32).map(|byte| byte.to_le_bytes()[0]).collect();
        assert_eq!(tail(Some(&printed[..])).await.unwrap(), printed[100_000 - MAX_PRINTED_BYTES..]);
        assert_eq!(tail(Some(&printed[..10])).await.unwrap(), printed[..10]);
        assert_eq!(tail(None::<&[u8]>).await.unwrap(), [0; 0]);
    }

    #[test]
    fn who_ends_a_child_in_an_orderly_way_says_nothing_of_the_model() {
        for signal in 1..32 {
            let told = was_told_to_end(ExitStatus::from_raw(signal));
            assert_eq!(told, [1, 2, 3, 15].contains(&signal), "{signal}");
        }
        assert!(!was_told_to_end(ExitStatus::from_raw(0)));
        assert!(!was_told_to_end(ExitStatus::from_raw(15 << 8)));
    }
}
