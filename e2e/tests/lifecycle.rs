//! How an agent begins, ends, and hands over.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use terrace_e2e::agent::{Agent, Exit};
use terrace_e2e::digits;
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::Model;
use terrace_e2e::scenes;
use terrace_e2e::site::Site;
use terrace_e2e::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// More than an idle agent needs to end.
const PROMPT: Duration = Duration::from_secs(10);

fn ask() -> Ask {
    Ask::image(&digits::test_set().images[0])
}

/// A request that is in flight for sure: the agent has its headers and half of its body.
struct Half {
    stream: TcpStream,
    rest: Vec<u8>,
}

impl Half {
    async fn send(agent: &Agent) -> Result<Self> {
        let body = ask().body().to_string();
        let (first, rest) = body.as_bytes().split_at(body.len() / 2);
        let mut stream = TcpStream::connect(agent.http).await?;
        // The 100 says that the agent has read the headers.
        let head = "POST /v2/models/digits/infer HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n";
        stream.write_all(format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes()).await?;
        let mut said = [0; 25];
        timeout(wait::LIMIT, stream.read_exact(&mut said)).await.context("no 100 Continue")??;
        ensure!(said.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&said));
        stream.write_all(first).await?;
        Ok(Self { stream, rest: rest.to_vec() })
    }

    /// Sends the rest, and reads the reply to the end of the connection.
    async fn finish(mut self) -> Result<String> {
        self.stream.write_all(&self.rest).await?;
        let mut reply = String::new();
        timeout(wait::LIMIT, self.stream.read_to_string(&mut reply))
            .await
            .context("the connection stays open")??;
        Ok(reply)
    }
}

/// Waits until nobody can connect any more.
async fn wait_closed(agent: &Agent) -> Result<()> {
    wait::until("the data port to close", || async {
        ensure!(TcpStream::connect(agent.http).await.is_err(), "it still accepts");
        Ok(())
    })
    .await
}

fn assert_clean(exit: &Exit) {
    assert_eq!(exit.status.code(), Some(0), "{:?}\n{}", exit.status, exit.log);
    assert!(exit.log.contains("agent ended"), "{}", exit.log);
    assert!(!exit.log.contains("ERROR"), "{}", exit.log);
}

#[tokio::test]
async fn what_is_in_flight_at_the_end_is_answered() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let mut idle = agent.connect().await?;
    idle.send(&ask().request()).await?.answered()?;
    let halves = [Half::send(&agent).await?, Half::send(&agent).await?, Half::send(&agent).await?];
    agent.terminate()?;
    wait_closed(&agent).await?;
    for half in halves {
        let reply = half.finish().await?;
        assert!(reply.starts_with("HTTP/1.1 200 ") && reply.contains("\"label\""), "{reply}");
    }
    assert_clean(&agent.wait_exit(PROMPT).await?);
    Ok(())
}

#[tokio::test]
async fn readiness_turns_before_the_port_closes() -> Result<()> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().set("--shutdown-delay", "2s").ready().await?;
    agent.terminate()?;
    wait::until("readiness to turn", || async {
        let reply = agent.admin("/readyz").await?;
        ensure!(reply.status == 503, "{} {}", reply.status, reply.text());
        Ok(())
    })
    .await?;
    assert!(agent.admin("/readyz").await?.text().contains("shutting down"));
    assert_eq!(agent.get("/v2/health/ready").await?.status, 503);
    assert_eq!(agent.get("/v2/health/live").await?.status, 200);
    assert_eq!(agent.admin("/healthz").await?.status, 200);
    agent.infer(&ask()).await?.answered().context("whoever has not noticed yet is still answered")?;
    assert_clean(&agent.wait_exit(PROMPT).await?);
    Ok(())
}

#[tokio::test]
async fn a_request_that_never_ends_holds_the_end_up_no_longer_than_the_drain_time() -> Result<()> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().set("--drain-timeout", "500ms").ready().await?;
    let _half = Half::send(&agent).await?;
    agent.terminate()?;
    let exit = agent.wait_exit(PROMPT).await?;
    assert_clean(&exit);
    assert!(exit.log.contains("still in flight"), "{}", exit.log);
    Ok(())
}

#[tokio::test]
async fn an_idle_agent_ends_at_once_when_it_is_told_to() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let begun = std::time::Instant::now();
    agent.terminate()?;
    assert_clean(&agent.wait_exit(PROMPT).await?);
    assert!(begun.elapsed() < Duration::from_secs(3), "it took {:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_successor_is_ready_before_its_predecessor_ends_and_then_follows_the_manifests() -> Result<()> {
    let (one, two) = (Model::digits("digits-device")?, Model::digits("digits-device-r2")?);
    for gracefully in [true, false] {
        let site = Site::new()?;
        site.manifests().model(&one)?;
        let predecessor = site.agent().ready().await?;
        let successor = site.agent().ready().await?;
        successor.wait_log("another agent owns the data directory").await?;
        let answers =
            [predecessor.infer(&ask()).await?.answered()?, successor.infer(&ask()).await?.answered()?];
        assert_eq!(answers[0].model_version()?, answers[1].model_version()?);
        assert_eq!(answers[0].outputs()?, answers[1].outputs()?);

        site.manifests().model(&two)?;
        predecessor.wait_serving("digits", two.sha256()).await?;
        if gracefully {
            predecessor.terminate()?;
            assert_clean(&predecessor.wait_exit(PROMPT).await?);
        } else {
            predecessor.kill9()?;
        }
        successor.infer(&ask()).await?.answered()?;
        successor.wait_log("the data directory is this agent's now").await?;
        successor.wait_serving("digits", two.sha256()).await?;
        site.manifests().model(&one)?;
        successor.wait_serving("digits", one.sha256()).await?;
        successor.infer(&ask()).await?.answered()?;
    }
    Ok(())
}

/// The log of an agent that could not start, in few lines.
fn failure(exit: &Exit) -> &str {
    assert!(exit.status.code().is_some_and(|code| code != 0), "{:?}\n{}", exit.status, exit.log);
    let log = exit.log.trim_end();
    assert!(!log.contains("panicked") && !log.contains("RUST_BACKTRACE"), "{log}");
    log
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_with_its_flag() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let site = Site::new()?;
    for flag in ["--listen-http", "--listen-admin"] {
        let exit = site.agent().set(flag, &address).run().await?;
        let log = failure(&exit);
        assert!(log.contains(&address) && log.contains(flag), "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_or_wrong_runtime_is_told_in_one_line() -> Result<()> {
    let site = Site::new()?;
    let (absent, text) = (site.folder().join("libabsent.so"), site.folder().join("libtext.so"));
    std::fs::write(&text, "no library")?;
    let other = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6", "/lib64/libm.so.6"];
    let other = other.iter().map(std::path::PathBuf::from).find(|path| path.exists());
    for library in [Some(absent), Some(text), other].into_iter().flatten() {
        let exit = site.agent().set("--onnxruntime", &library).run().await?;
        let log = failure(&exit);
        assert!(log.contains("ONNX Runtime") && log.contains(&*library.to_string_lossy()), "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_used_is_told_with_its_flag() -> Result<()> {
    let site = Site::new()?;
    let file = site.folder().join("file");
    std::fs::write(&file, "")?;
    for folder in [file.clone(), file.join("data"), "/proc/terrace".into()] {
        let exit = site.agent().set("--data-dir", &folder).run().await?;
        let log = failure(&exit);
        assert!(log.contains("choose another --data-dir"), "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_variable_that_is_there_and_empty_is_no_setting() -> Result<()> {
    let site = Site::new()?;
    let agent = site.agent().env("TERRACE_TIER", "").env("TERRACE_MAX_BODY_BYTES", "").start().await?;
    assert!(agent.log().contains("tier=device"), "{}", agent.log());
    Ok(())
}

#[tokio::test]
async fn a_flag_that_makes_no_sense_is_told() -> Result<()> {
    let site = Site::new()?;
    for (flag, value, told) in [
        ("--tier", "moon", "device, edge or cloud"),
        ("--listen-http", "localhost", "--listen-http"),
        ("--drain-timeout", "soon", "30s"),
        ("--log", "terrace=loudest", "log filter"),
        ("--max-body-bytes", "64MiB", "expected a number of bytes without a unit: 67108864"),
    ] {
        let exit = site.agent().set(flag, value).run().await;
        // An address that cannot be read never becomes this test's either.
        let Ok(exit) = exit else { continue };
        assert!(failure(&exit).contains(told), "{}", exit.log);
    }
    Ok(())
}
