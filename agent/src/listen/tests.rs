use std::sync::Mutex;

use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::activity::IDLE_TIMEOUT;
use crate::answer::{self, Answer};
use crate::room::{Room, Taken};

const ANSWER: usize = 1 << 20;

/// The other side of a connection that is served until it is told to end, and how much room its answers find.
fn connected() -> (watch::Sender<bool>, DuplexStream, Room) {
    let (client, stream) = duplex(64 << 10);
    let (end, ending) = watch::channel(false);
    let room = Room::new(64 * ANSWER);
    let all = room.clone();
    let large = move || {
        let all = all.clone();
        async move {
            let taken = answer::room(&all, Taken::default(), ANSWER).unwrap();
            Body::new(Answer::new(std::iter::once(Bytes::from(vec![b'x'; ANSWER])), taken, None))
        }
    };
    let app = Router::new().route("/", get(large)).route("/small", get(|| async { "small" }));
    let visit = Visit { server: Server::new(), app, door: None, ending };
    tokio::spawn(visit.converse(stream, None));
    (end, client, room)
}

/// A connection on which a large answer has been asked for.
async fn asked() -> (watch::Sender<bool>, DuplexStream) {
    let (end, mut client, _) = connected();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    (end, client)
}

#[tokio::test(start_paused = true)]
async fn an_answer_takes_as_long_as_its_client_takes() {
    let (_end, mut client) = asked().await;
    let mut come = Vec::new();
    while come.len() < ANSWER {
        tokio::time::sleep(IDLE_TIMEOUT / 4).await;
        let mut piece = vec![0; 32 << 10];
        let count = client.read(&mut piece).await.unwrap();
        assert!(count > 0, "cut off after {} bytes", come.len());
        come.extend_from_slice(&piece[..count]);
    }
    assert!(come.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_not_waited_for() {
    let (_end, mut client) = asked().await;
    tokio::time::sleep(3 * IDLE_TIMEOUT).await;
    let mut come = Vec::new();
    client.read_to_end(&mut come).await.unwrap();
    assert!(!come.is_empty() && come.len() < ANSWER, "{} bytes", come.len());
}

/// A client of HTTP/2 that takes so many bytes of an answer before it is asked for more.
async fn speaking(client: DuplexStream, window: u32) -> SendRequest<Empty<Bytes>> {
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(client))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>, path: &str) -> http::Response<Incoming> {
    let request = Request::get(format!("http://a{path}")).body(Empty::new()).unwrap();
    sender.ready().await.unwrap();
    sender.send_request(request).await.unwrap()
}

fn is_free(room: &Room, answers: usize) -> bool {
    room.cover(&mut Taken::default(), answers * ANSWER).is_ok()
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_taken_is_given_up_whatever_else_is_asked() {
    // Nothing of it, a little, and all but its end: that lies where frames are written.
    for window in [0, 1, 100_000, u32::try_from(ANSWER).unwrap() - 1] {
        let (_end, client, room) = connected();
        let mut sender = speaking(client, window).await;
        let stalled = [ask(&mut sender, "/").await, ask(&mut sender, "/").await];
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < IDLE_TIMEOUT * 7 / 8 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            let small = ask(&mut sender, "/small").await;
            if window > 5 {
                assert_eq!(small.into_body().collect().await.unwrap().to_bytes(), "small");
            }
            assert!(is_free(&room, 62) && !is_free(&room, 63), "{window}: they hold what they take");
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(is_free(&room, 64), "{window}: nobody waits for them any more");
        for answer in stalled {
            answer.into_body().collect().await.unwrap_err();
        }
        assert_eq!(ask(&mut sender, "/small").await.status(), 200, "others go on");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_takes_its_time_beside_one_that_is_taken_at_once() {
    let (_end, client, room) = connected();
    let mut sender = speaking(client, 65_535).await;
    let mut slow = ask(&mut sender, "/").await.into_body();
    let mut come = 0;
    while let Some(frame) = slow.frame().await {
        let length = frame.unwrap().data_ref().map_or(0, Bytes::len);
        come += length;
        // It takes 160 KiB in the time in which it has to take 64.
        tokio::time::sleep(IDLE_TIMEOUT * u32::try_from(length).unwrap() / (160 << 10)).await;
        if come < ANSWER / 2 {
            assert!(!is_free(&room, 64), "{come}");
        }
        let quick = ask(&mut sender, "/").await.into_body();
        assert_eq!(quick.collect().await.unwrap().to_bytes().len(), ANSWER);
    }
    assert_eq!(come, ANSWER);
    assert!(is_free(&room, 64));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_used_is_told_that_it_ends() {
    let (_end, client, _) = connected();
    let (mut sender, connection) =
        Builder::new(TokioExecutor::new()).handshake(TokioIo::new(client)).await.unwrap();
    let ended = tokio::spawn(connection);
    let begun = tokio::time::Instant::now();
    ask(&mut sender, "/small").await.into_body().collect().await.unwrap();
    // A connection that is dropped in the middle of everything is an error to its client.
    ended.await.unwrap().unwrap();
    assert!(begun.elapsed() > IDLE_TIMEOUT && begun.elapsed() < 3 * IDLE_TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_when_its_listener_does_and_its_answers_are_out() {
    let (end, mut client, _) = connected();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut head = [0; 1000];
    client.read_exact(&mut head).await.unwrap();
    end.send(true).unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!((ANSWER - 1000..ANSWER + 1000).contains(&rest.len()), "one of two: {} bytes", rest.len());
    // One on which nothing was said ends at once, whatever it began with.
    for beginning in [&b""[..], b"PRI * HTTP"] {
        let (end, mut client, _) = connected();
        client.write_all(beginning).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let begun = tokio::time::Instant::now();
        end.send(true).unwrap();
        client.read_to_end(&mut Vec::new()).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{beginning:?} {:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn the_head_of_a_request_is_bounded_before_it_is_whole() {
    let head = |size: usize| format!("GET /small HTTP/1.1\r\nhost: a\r\nx-a: {}", "a".repeat(size));
    let sent = async |size: usize, end: &str| {
        let (_end, mut client, _) = connected();
        let bytes = head(size) + end;
        let took = Mutex::new(0);
        let (mut reads, mut writes) = tokio::io::split(&mut client);
        let write = async {
            for piece in bytes.as_bytes().chunks(1000) {
                if writes.write_all(piece).await.is_err() {
                    break;
                }
                *took.lock().unwrap() += piece.len();
            }
            std::future::pending::<()>().await;
        };
        let mut answer = vec![0; 12];
        tokio::select! {
            () = write => {}
            read = reads.read_exact(&mut answer) => { read.unwrap(); }
        }
        (String::from_utf8(answer).unwrap(), *took.lock().unwrap())
    };
    assert_eq!(sent(20_000, "\r\n\r\n").await.0, "HTTP/1.1 200");
    let (answer, took) = sent(1 << 20, "").await;
    assert!(answer == "HTTP/1.1 431" && took < 256 << 10, "{answer} after {took} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_between_requests_for_longer_than_proxies_keep_theirs() {
    let (_end, mut client, _) = connected();
    let mut head = [0; 1000];
    for pause in [0, 61, 70] {
        tokio::time::sleep(Duration::from_secs(pause)).await;
        client.write_all(b"GET /small HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let count = client.read(&mut head).await.unwrap();
        assert!(head[..count].starts_with(b"HTTP/1.1 200"), "after {pause} s");
    }
    let begun = tokio::time::Instant::now();
    client.read_to_end(&mut Vec::new()).await.unwrap();
    let waited = begun.elapsed().as_secs();
    assert!((74..78).contains(&waited), "{waited} s");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_has_begun_is_waited_for_as_before() {
    let (_end, mut client, _) = connected();
    let mut head = [0; 1000];
    client.write_all(b"GET /small HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(client.read(&mut head).await.unwrap() > 0);
    tokio::time::sleep(Duration::from_secs(40)).await;
    let begun = tokio::time::Instant::now();
    // However it goes on.
    for _ in 0..14 {
        client.write_all(b"x").await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(client.read(&mut head).await.unwrap(), 0);
    let waited = begun.elapsed().as_secs();
    assert!((14..17).contains(&waited), "{waited} s");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_taken_slowly_is_no_head_that_has_begun() {
    let (_end, mut client) = asked().await;
    // The next one is there before anything was taken.
    client.write_all(b"GET /small HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (mut come, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    while !come.ends_with(b"small") {
        let count = client.read(&mut piece).await.unwrap();
        assert!(count > 0, "cut off after {} bytes", come.len());
        come.extend_from_slice(&piece[..count]);
    }
}

#[tokio::test]
async fn a_client_that_was_not_told_to_send_its_body_is_told_that_the_connection_ends() {
    for (path, expected) in [("/nowhere", true), ("/small", false)] {
        let (_end, mut client, _) = connected();
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(answer.contains("connection: close"), expected, "{answer}");
    }
}

#[tokio::test]
async fn little_of_an_answer_lies_in_the_kernel_that_its_client_does_not_take() {
    const PIECE: usize = 16 << 10;
    let written = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&written);
    let answer = move || {
        let counted = Arc::clone(&counted);
        async move {
            let pieces = futures_util::stream::iter((0..1024).map(move |_| {
                counted.fetch_add(PIECE, std::sync::atomic::Ordering::Relaxed);
                Ok::<_, Infallible>(Bytes::from(vec![b'x'; PIECE]))
            }));
            Body::from_stream(pieces)
        }
    };
    let app = Router::new().route("/", get(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_end, ending) = watch::channel(false);
    let limits = Limits { connections: 1, drain: Duration::ZERO };
    tokio::spawn(serve(listener, Served { app, door: None, limits }, ending));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // What lies on the other side is not what this is about.
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut client = socket.connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let now = || written.load(std::sync::atomic::Ordering::Relaxed);
    let mut seen = 0;
    while seen == 0 || seen != now() {
        seen = now();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // Without the bound it is some 3 MB; hyper itself holds 400 KB.
    assert!(seen < 1 << 20, "{seen} bytes were taken of it");
    let mut come = 0;
    while come < 1024 * PIECE {
        come += client.read_buf(&mut Vec::with_capacity(1 << 20)).await.unwrap();
    }
}
