//! Throughput and cost of the data plane, beside a server that does nothing, the bare runtime and other servers.

mod beside;
mod cells;
mod compare;
mod cpu;
mod floor;
mod generator;
mod grpc;
mod helper;
mod idle;
mod open;
mod peers;
mod protobuf;
mod question;
mod raw;
mod swaps;
mod target;
mod targets;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::figures::Report;
use super::{machine, setting};
use crate::checkout;
use peers::Peers;
use raw::Raw;
use targets::Targets;

pub use floor::{SUBCOMMAND as FLOOR, serve as serve_floor};

/// The interval of a median is from the second to the ninth of them.
const ROUNDS: usize = 10;

/// What all measurements need.
struct Bench {
    rounds: usize,
    /// What a cell's title must contain to be measured, or what one of the other parts is called.
    only: Option<String>,
    /// The folder of the models.
    models: PathBuf,
    raw: Raw,
    peers: Peers,
}

impl Bench {
    /// Whether what has this title is measured.
    fn has(&self, title: &str) -> bool {
        self.only.as_ref().is_none_or(|only| title.contains(only))
    }
}

/// Measures everything; what was found is a page of Markdown.
pub async fn run() -> Result<String> {
    let rounds =
        setting("ROUNDS").map_or(Ok(ROUNDS), |rounds| rounds.parse()).context("ROUNDS is a number")?;
    let models = models()?;
    let raw = Raw::compile(&models)?;
    let only = setting("ONLY");
    let bench = Bench { rounds, only, models, raw, peers: Peers::chosen(setting("PEERS").as_deref()) };
    let mut report = Report::default();
    machine::describe(&mut report, "make bench-serving")?;
    versions(&mut report);
    let (mut below, mut targets) = (Report::below(), Targets::default());
    method(&mut below, &bench);
    cells::measure(&mut below, &bench, &mut targets).await?;
    if bench.has("beside") {
        beside::measure(&mut below, &bench, &mut targets).await?;
    }
    if bench.has("open") {
        open::measure(&mut below, &bench).await?;
    }
    if bench.has("swaps") {
        swaps::measure(&mut below, &bench, &mut targets).await?;
    }
    if bench.has("idle") {
        idle::measure(&mut below, &bench, &mut targets).await?;
    }
    machine::load_at_end(&mut below)?;
    targets.tell(&mut report);
    report.append(&below);
    Ok(report.markdown())
}

/// What was measured: the agent's version, and those of its library and of the peers stand in their requirements.
fn versions(report: &mut Report) {
    let commit =
        Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(checkout()).output();
    let commit = commit.ok().filter(|told| told.status.success());
    let commit = commit
        .map_or_else(|| "unknown".to_owned(), |told| String::from_utf8_lossy(&told.stdout).trim().to_owned());
    let library = crate::agent::onnxruntime().and_then(|path| path.canonicalize().ok());
    let library = library.and_then(|path| Some(path.parent()?.file_name()?.to_string_lossy().into_owned()));
    report.say(format_args!(
        "Terrace {} ({commit}), ONNX Runtime {}; the peers' versions stand in e2e/bench/peers/README.md.",
        env!("CARGO_PKG_VERSION"),
        library.as_deref().unwrap_or("unknown")
    ));
}

fn method(report: &mut Report, bench: &Bench) {
    let rounds = bench.rounds;
    report.section(
        "How",
        &format!(
            "Clients ask again as soon as they are answered, each on a connection of its own, all in one thread that \
             sends ready-made bytes and reads over the answers; every one must have status 200. The first answer of each \
             server is compared with the bare runtime's. A round measures each target once, {} s after {} s that do not \
             count, beginning with another one each time; {rounds} rounds. Figures are medians of the rounds. CPU is \
             user and system time of all the server's processes for a request.",
            target::TIME.as_secs_f64(),
            target::WARM.as_secs_f64()
        ),
    );
    report.say(
        "A ratio is taken round by round; given is the median with the interval in which it lies at 95 % (order \
         statistics; least and most where there are fewer than 6 rounds). \"The same again\" is another agent of the \
         same build: what its ratio is away from 1 is noise. Targets that are not being measured run idle beside the one \
         that is, and the table says how much of a core they use meanwhile.",
    );
    report.say(
        "\"HTTP that does nothing\" is axum with two threads: it reads the same request and sends as many bytes as \
         Terrace does. \"Bare runtime\" is e2e/bench/raw.c: sessions in a loop, as many as the agent has, one thread each. \
         It runs alone: no load takes CPU time from it. Peers run as e2e/bench/peers/README.md says, with as many \
         processes as cores; the agent has one session unless the table's title says otherwise.",
    );
    if !bench.peers.left_out.is_empty() {
        report.say(format_args!(
            "Left out: {} (PEERS=1 installs and takes all).",
            bench.peers.left_out.join(", ")
        ));
    }
}

/// The folder of the models, made where it is missing.
fn models() -> Result<PathBuf> {
    let folder = checkout().join("target/bench-models");
    // The one that is made last.
    if !folder.join("wide.onnx").exists() {
        done(Command::new(checkout().join("tools/venv")).arg("bench-models"))?;
        let python = checkout().join(".tools/venv/bench-models/bin/python");
        done(Command::new(python).arg(checkout().join("e2e/bench/models/make.py")).arg(&folder))?;
    }
    absolute(&folder)
}

fn absolute(folder: &Path) -> Result<PathBuf> {
    folder.canonicalize().with_context(|| format!("there is no {}", folder.display()))
}

fn done(command: &mut Command) -> Result<()> {
    let status =
        command.stdout(Stdio::null()).status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
