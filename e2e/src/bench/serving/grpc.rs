//! gRPC as far as a measurement needs it: one call at a time on a connection, its frames made once. What a whole client
//! does for each call would be measured along with the server otherwise.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Says that HTTP/2 follows.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The most that a frame may hold unless the other side takes more.
const MOST_IN_FRAME: usize = 16 << 10;
const FRAME_HEAD: usize = 9;
const BUFFER: usize = 256 << 10;
/// As much as a window can be, so that it is never waited for.
const WINDOW: u32 = (1 << 31) - 1;
const FIRST_WINDOW: u32 = (1 << 16) - 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// Of a stream; of settings and pings it means that they were seen.
const END: u8 = 1;
const END_OF_HEADERS: u8 = 4;

/// A call's frames, on a stream whose number is still to be set.
pub fn call(path: &str, message: &[u8]) -> Result<Vec<u8>> {
    let fields = [
        &[0x83, 0x86][..],
        &field(4, path)?,
        &field(1, "localhost")?,
        &field(31, "application/grpc")?,
        &[0],
        &text("te")?,
        &text("trailers")?,
    ];
    let data = [&[0], &u32::try_from(message.len())?.to_be_bytes()[..], message].concat();
    ensure!(data.len() <= MOST_IN_FRAME, "the message does not fit into a frame");
    Ok([frame(HEADERS, END_OF_HEADERS, 0, &fields.concat()), frame(DATA, END, 0, &data)].concat())
}

/// A header whose name is in the protocol's own table.
fn field(name: u8, value: &str) -> Result<Vec<u8>> {
    let name = if name < 15 { vec![name] } else { vec![15, name - 15] };
    Ok([name, text(value)?].concat())
}

fn text(text: &str) -> Result<Vec<u8>> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
    Ok([&[length.context("longer texts are written differently")?], text.as_bytes()].concat())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A connection that is kept.
pub struct Connection {
    stream: TcpStream,
    next: u32,
    buffer: Vec<u8>,
    held: usize,
}

impl Connection {
    /// Greets.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // No table of headers that were seen before, and windows that never close.
        let settings = [&[0, 1][..], &0_u32.to_be_bytes(), &[0, 4], &WINDOW.to_be_bytes()].concat();
        let window = (WINDOW - FIRST_WINDOW).to_be_bytes();
        let greeting =
            [PREFACE, &frame(SETTINGS, 0, 0, &settings), &frame(WINDOW_UPDATE, 0, 0, &window)].concat();
        stream.write_all(&greeting).await?;
        Ok(Self { stream, next: 1, buffer: vec![0; BUFFER], held: 0 })
    }

    /// Makes a call; its answer's messages as they are framed. Only a call that succeeds has any.
    pub async fn exchange(&mut self, call: &[u8]) -> Result<Vec<u8>> {
        let stream = self.next;
        self.next += 2;
        let mut call = call.to_vec();
        let mut at = 0;
        while at < call.len() {
            call[at + 5..at + FRAME_HEAD].copy_from_slice(&stream.to_be_bytes());
            at += FRAME_HEAD + length(&call[at..]);
        }
        self.stream.write_all(&call).await?;
        let mut answer = Vec::new();
        loop {
            while let Some((frame, end)) = whole(&self.buffer[..self.held]) {
                let of_this = frame.stream == stream;
                match frame.kind {
                    DATA if of_this => answer.extend_from_slice(&self.buffer[FRAME_HEAD..end]),
                    RESET | GO_AWAY => bail!("the server ended the call"),
                    SETTINGS | PING if frame.flags & END == 0 => {
                        let payload = if frame.kind == PING { &self.buffer[FRAME_HEAD..end] } else { &[] };
                        let seen = self::frame(frame.kind, END, 0, payload);
                        self.stream.write_all(&seen).await?;
                    }
                    _ => {}
                }
                self.buffer.copy_within(end..self.held, 0);
                self.held -= end;
                if of_this && frame.flags & END != 0 && matches!(frame.kind, DATA | HEADERS) {
                    ensure!(!answer.is_empty(), "the call failed");
                    return Ok(answer);
                }
            }
            let read = self.stream.read(&mut self.buffer[self.held..]).await?;
            ensure!(read > 0, "the server closed the connection, or sent a frame that is too large");
            self.held += read;
        }
    }
}

/// The only message of an answer.
pub fn message(answer: &[u8]) -> Result<&[u8]> {
    let (head, message) = answer.split_at_checked(5).context("no message")?;
    ensure!(head[0] == 0, "the message is compressed");
    Ok(message)
}

/// What begins a frame.
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
}

/// The first frame and where it ends, once it is whole.
fn whole(bytes: &[u8]) -> Option<(Head, usize)> {
    let head = bytes.get(..FRAME_HEAD)?;
    let end = FRAME_HEAD + length(head);
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    (bytes.len() >= end).then_some((Head { kind: head[3], flags: head[4], stream }, end))
}

fn length(frame: &[u8]) -> usize {
    u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_two_frames() {
        let call = call("/a", b"hello").unwrap();
        let (head, end) = whole(&call).unwrap();
        assert_eq!((head.kind, head.flags, head.stream), (HEADERS, END_OF_HEADERS, 0));
        assert!(call[..end].windows(3).any(|window| window == b"\x02/a"));
        assert!(whole(&call[..end - 1]).is_none());
        let (data, length) = whole(&call[end..]).unwrap();
        assert_eq!((data.kind, data.flags), (DATA, END));
        assert_eq!(end + length, call.len());
        assert_eq!(message(&call[end + FRAME_HEAD..]).unwrap(), b"hello");
    }
}
