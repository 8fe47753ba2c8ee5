//! The load: one thread, raw connections, ready-made bytes, and next to no parsing, so that it costs little itself.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::{cpu, grpc};
use crate::dice::Dice;
use crate::wait::LIMIT;

/// A whole head and the body of a small answer; a large body takes several.
const BUFFER: usize = 256 << 10;
/// Connections of an open loop: more than a server has in work at any rate it can hold.
const OPEN_CONNECTIONS: usize = 64;
const SEED: u64 = 11;

/// Whom to ask, and what.
#[derive(Clone, Debug)]
pub struct Aim {
    pub address: SocketAddr,
    /// All of it, head and body.
    pub request: Bytes,
    pub is_grpc: bool,
}

/// One answer, with status 200.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub done: Instant,
    /// Since it was asked for; in an open loop, since that was due.
    pub took: Duration,
}

/// All that came back.
#[derive(Debug, Default)]
pub struct Answers {
    pub all: Vec<Answer>,
    /// CPU time of this side for each, in microseconds.
    pub cpu: f64,
    /// In an open loop, how long after it was due each request was released.
    pub late: Vec<Duration>,
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    answers: oneshot::Receiver<Result<Answers>>,
}

impl Load {
    /// Clients that ask again as soon as they are answered.
    pub fn closed(aim: Aim, clients: usize) -> Result<Self> {
        Self::start(move |stop| closed(aim, clients, stop))
    }

    /// Requests that come as they come, so many a second (Poisson), whether or not others are answered.
    pub fn open(aim: Aim, rate: f64) -> Result<Self> {
        Self::start(move |stop| open(aim, rate, stop))
    }

    /// Ends it. Fails if any request did.
    pub async fn stop(mut self) -> Result<Answers> {
        self.stop.store(true, Ordering::Relaxed);
        timeout(LIMIT, &mut self.answers)
            .await
            .context("no answer")?
            .context("the load's thread has ended")?
    }

    fn start<F>(work: impl FnOnce(Arc<AtomicBool>) -> F + Send + 'static) -> Result<Self>
    where
        F: Future<Output = Result<Answers>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (tell, answers) = oneshot::channel();
        std::thread::Builder::new().name("load".to_owned()).spawn(move || {
            let answers = runtime.block_on(work(stopped)).map(|mut answers| {
                answers.cpu = cpu::of_this_thread() * 1e6 / answers.all.len() as f64;
                answers
            });
            // Whoever asked may be gone.
            let _ = tell.send(answers);
        })?;
        Ok(Self { stop, answers })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn closed(aim: Aim, clients: usize, stop: Arc<AtomicBool>) -> Result<Answers> {
    let client = |aim: Aim, stop: Arc<AtomicBool>| async move {
        let mut connection = Connection::open(&aim).await?;
        let mut answers = Vec::new();
        let mut asked = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            connection.exchange(&aim.request).await?;
            let done = Instant::now();
            answers.push(Answer { done, took: done - asked });
            asked = done;
        }
        anyhow::Ok(answers)
    };
    let tasks: Vec<_> = (0..clients).map(|_| tokio::spawn(client(aim.clone(), Arc::clone(&stop)))).collect();
    let mut answers = Answers::default();
    for task in tasks {
        answers.all.extend(task.await??);
    }
    Ok(answers)
}

async fn open(aim: Aim, rate: f64, stop: Arc<AtomicBool>) -> Result<Answers> {
    let queue = Arc::new(Queue::default());
    let mut tasks = Vec::new();
    for _ in 0..OPEN_CONNECTIONS {
        let mut connection = Connection::open(&aim).await?;
        let (queue, request) = (Arc::clone(&queue), aim.request.clone());
        tasks.push(tokio::spawn(async move {
            let mut answers = Vec::new();
            while let Some(due) = queue.next().await {
                connection.exchange(&request).await?;
                let done = Instant::now();
                answers.push(Answer { done, took: done - due });
            }
            anyhow::Ok(answers)
        }));
    }
    let mut answers = Answers { late: pace(&queue, rate, &stop).await?, ..Answers::default() };
    queue.end(OPEN_CONNECTIONS);
    for task in tasks {
        answers.all.extend(task.await??);
    }
    Ok(answers)
}

/// Releases requests when they are due, until told to stop; how late it was each time.
async fn pace(queue: &Queue, rate: f64, stop: &AtomicBool) -> Result<Vec<Duration>> {
    let timer = Timer::new()?;
    let mut dice = Dice::of(SEED);
    let mut late = Vec::new();
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        due += gap(&mut dice, rate);
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            timer.wait(wait).await?;
        }
        late.push(due.elapsed());
        queue.push(due);
    }
    Ok(late)
}

/// The time to the next arrival of a Poisson process.
fn gap(dice: &mut Dice, rate: f64) -> Duration {
    let share = ((dice.roll() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    Duration::from_secs_f64(-share.ln() / rate)
}

/// Requests that are due and not yet sent.
#[derive(Default)]
struct Queue {
    /// Nothing where no more come.
    due: Mutex<VecDeque<Option<Instant>>>,
    filled: Notify,
}

impl Queue {
    fn push(&self, due: Instant) {
        self.due.lock().unwrap_or_else(PoisonError::into_inner).push_back(Some(due));
        self.filled.notify_one();
    }

    fn end(&self, readers: usize) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.extend(std::iter::repeat_n(None, readers));
        self.filled.notify_waiters();
    }

    async fn next(&self) -> Option<Instant> {
        loop {
            let filled = self.filled.notified();
            // Not held over the wait.
            let first = self.due.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(due) = first {
                return due;
            }
            filled.await;
        }
    }
}

/// A timer finer than Tokio's, which is of milliseconds.
struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    fn new() -> Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // What came after `new` is unsafe; an OwnedFd keeps the promise that it asks for.
        #[allow(deprecated)]
        let timer = AsyncFd::new(timer)?;
        Ok(Self(timer))
    }

    async fn wait(&self, time: Duration) -> Result<()> {
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: never, it_value: Timespec::try_from(time)? };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut expirations = [0; 8];
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut expirations)?));
            if let Ok(read) = read {
                read?;
                return Ok(());
            }
        }
    }
}

/// A connection that is kept.
enum Connection {
    Http(Http),
    Grpc(grpc::Connection),
}

impl Connection {
    async fn open(aim: &Aim) -> Result<Self> {
        Ok(if aim.is_grpc {
            Self::Grpc(grpc::Connection::open(aim.address).await?)
        } else {
            Self::Http(Http::open(aim.address).await?)
        })
    }

    /// Sends a request and reads over its answer, which must be a good one.
    async fn exchange(&mut self, request: &[u8]) -> Result<()> {
        match self {
            Self::Http(connection) => connection.exchange(request).await,
            Self::Grpc(connection) => connection.exchange(request).await.map(drop),
        }
    }
}

/// A connection of HTTP/1.1.
struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Http {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; BUFFER] })
    }

    /// Sends a request and reads over its answer, which must be one of status 200.
    async fn exchange(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).await?;
        let mut held = 0;
        let (begin, body) = loop {
            held += self.read(held, BUFFER).await?;
            if let Some(head) = head(&self.buffer[..held])? {
                break head;
            }
            ensure!(held < BUFFER, "the answer's head does not end");
        };
        match body {
            Body::Length(length) => {
                let mut left = (begin + length).checked_sub(held).context("more than an answer")?;
                while left > 0 {
                    left -= self.read(0, left.min(BUFFER)).await?;
                }
            }
            Body::Chunked => {
                let mut chunks = Chunks::default();
                let mut ended = chunks.end_in(&self.buffer[begin..held])?;
                while !ended {
                    let read = self.read(0, BUFFER).await?;
                    ended = chunks.end_in(&self.buffer[..read])?;
                }
            }
        }
        Ok(())
    }

    async fn read(&mut self, begin: usize, end: usize) -> Result<usize> {
        let read = self.stream.read(&mut self.buffer[begin..end]).await?;
        ensure!(read > 0, "the server closed the connection");
        Ok(read)
    }
}

/// How a body's end is known.
#[derive(Debug, PartialEq, Eq)]
enum Body {
    Length(usize),
    Chunked,
}

/// Where the body begins and how it ends; none where the head is not whole yet.
fn head(bytes: &[u8]) -> Result<Option<(usize, Body)>> {
    const END: &[u8] = b"\r\n\r\n";
    let Some(end) = bytes.windows(END.len()).position(|window| window == END) else { return Ok(None) };
    let head = &bytes[..end];
    if !head.starts_with(b"HTTP/1.1 200") {
        bail!("no answer: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(500)]));
    }
    let body = match header(head, b"content-length:") {
        Some(length) => Body::Length(std::str::from_utf8(length)?.parse()?),
        None => {
            let coding = header(head, b"transfer-encoding:");
            ensure!(coding == Some(b"chunked"), "an answer without a length");
            Body::Chunked
        }
    };
    Ok(Some((end + END.len(), body)))
}

/// The value of the header whose name, with its colon, is this.
fn header<'head>(head: &'head [u8], name: &[u8]) -> Option<&'head [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (start, value) = line.split_at_checked(name.len())?;
        start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
    })
}

/// Where a body in chunks is being read.
#[derive(Debug, Default)]
struct Chunks {
    /// Of the size's line so far.
    size: usize,
    /// What is left of a chunk and the end of its line.
    left: usize,
    is_last: bool,
}

impl Chunks {
    /// Whether the body ends with these bytes.
    fn end_in(&mut self, mut bytes: &[u8]) -> Result<bool> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let over = self.left.min(bytes.len());
                self.left -= over;
                bytes = &bytes[over..];
                continue;
            }
            ensure!(!self.is_last, "more than an answer");
            match first {
                b'\r' => {}
                b'\n' => (self.left, self.is_last, self.size) = (self.size + 2, self.size == 0, 0),
                digit => {
                    let digit = char::from(*digit).to_digit(16).context("a chunk without a size")?;
                    self.size = self.size * 16 + digit as usize;
                }
            }
            bytes = rest;
        }
        Ok(self.is_last && self.left == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_how_the_body_ends() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nserver: x\r\n\r\n{}";
        assert_eq!(head(answer).unwrap(), Some((answer.len() - 2, Body::Length(2))));
        assert_eq!(head(&answer[..20]).unwrap(), None);
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(head(chunked).unwrap(), Some((chunked.len(), Body::Chunked)));
        assert!(head(b"HTTP/1.1 429 Busy\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(head(b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\n").is_err());
    }

    #[test]
    fn chunks_end_with_the_empty_one_however_they_are_cut() {
        let body = b"a\r\n0123456789\r\n1\r\n\n\r\n0\r\n\r\n";
        for cut in 0..body.len() {
            let mut chunks = Chunks::default();
            assert!(!chunks.end_in(&body[..cut]).unwrap(), "{cut}");
            assert!(chunks.end_in(&body[cut..]).unwrap(), "{cut}");
        }
    }

    #[test]
    fn arrivals_have_the_rate_that_was_asked_for() {
        let mut dice = Dice::of(1);
        let all: Duration = (0..10_000).map(|_| gap(&mut dice, 1_000.0)).sum();
        assert!((9.5..10.5).contains(&all.as_secs_f64()), "{all:?}");
    }
}
