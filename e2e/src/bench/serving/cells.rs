//! One model, one encoding, so many clients: the agent beside all that can be asked the same.

use anyhow::{Context as _, Result};

use super::Bench;
use super::compare::{self, CPU, P50, RATE, Series};
use super::question::{CNN, ECHO, Encoding, MLP, Model, Question, WIDE};
use super::target::{Measured, Server, bare};
use super::targets::Bound::{self, AtLeast, AtMost};
use super::targets::Targets;
use crate::bench::figures::{Report, row};

/// What is asked at once.
pub struct Cell {
    model: &'static Model,
    encoding: Encoding,
    clients: usize,
    /// The agent's sessions, and the bare runtime's.
    sessions: u16,
    goals: &'static [Goal],
}

/// What a cell is to reach.
#[derive(Clone, Copy)]
enum Goal {
    /// Requests a second.
    Rate(Bound),
    /// CPU time of a request, in microseconds.
    Cpu(Bound),
    /// Half of the requests take no longer, in milliseconds.
    P50(Bound),
    /// Requests a second ÷ those of the bare runtime beside the load.
    Share(Bound),
}

const fn cell(
    model: &'static Model,
    encoding: Encoding,
    clients: usize,
    sessions: u16,
    goals: &'static [Goal],
) -> Cell {
    Cell { model, encoding, clients, sessions, goals }
}

use Encoding::{Binary, Grpc, Json};
use Goal::{Cpu, Rate, Share};
const CELLS: [Cell; 11] = [
    cell(&MLP, Binary, 1, 1, &[]),
    cell(&MLP, Binary, 8, 1, &[]),
    cell(&MLP, Binary, 32, 1, &[Rate(AtLeast(55_000.0)), Cpu(AtMost(20.0))]),
    cell(&MLP, Json, 32, 1, &[Rate(AtLeast(50_000.0))]),
    cell(&MLP, Grpc, 32, 1, &[Cpu(AtMost(35.0))]),
    cell(&CNN, Binary, 1, 1, &[Share(AtLeast(0.93))]),
    cell(&CNN, Binary, 8, 2, &[Share(AtLeast(0.85))]),
    cell(&CNN, Json, 1, 1, &[Rate(AtLeast(120.0))]),
    cell(&WIDE, Binary, 8, 1, &[Rate(AtLeast(750.0))]),
    cell(&WIDE, Binary, 32, 1, &[Rate(AtLeast(1_350.0))]),
    cell(&ECHO, Binary, 1, 1, &[Goal::P50(AtMost(0.40))]),
];

pub const TERRACE: &str = "Terrace";
pub const AGAIN: &str = "the same again";
pub const FLOOR: &str = "HTTP that does nothing";
pub const BARE: &str = "bare runtime, a row a run";
pub const BATCH: &str = "bare runtime, a row of each client a run";
pub const BESIDE: &str = "bare runtime beside the load";

/// Whatever takes part.
enum Target {
    Server(Box<Server>),
    Bare {
        rows: usize,
    },
    /// While a server that does nothing gets as many requests as Terrace answered.
    Beside(Box<Server>),
}

impl Cell {
    fn title(&self) -> String {
        let clients =
            if self.clients == 1 { "1 client".to_owned() } else { format!("{} clients", self.clients) };
        let sessions =
            if self.sessions == 1 { String::new() } else { format!(", {} instances", self.sessions) };
        format!("{}, {}, {clients}{sessions}", self.model.name, self.encoding.name())
    }

    /// All series, and why others are missing.
    async fn measure(&self, bench: &Bench) -> Result<(Vec<Series>, Vec<String>)> {
        let (mut targets, missing) = self.targets(bench).await?;
        let mut all: Vec<Series> = targets.iter().map(|(name, _)| Series::named(*name)).collect();
        let count = targets.len();
        for round in 0..bench.rounds {
            for place in 0..count {
                // Each begins as often as any other.
                let index = (round + place) % count;
                let (name, target) = &mut targets[index];
                // Of this round or of the one before; Terrace is the first of the first.
                let rate = all[0].rounds.last().map_or(0.0, RATE);
                let measured = self.one(target, bench, rate).await.with_context(|| name.to_owned())?;
                all[index].rounds.push(measured);
            }
        }
        Ok((all, missing))
    }

    async fn one(&self, target: &mut Target, bench: &Bench, rate: f64) -> Result<Measured> {
        match target {
            Target::Server(server) => server.closed(self.clients).await,
            Target::Bare { rows } => bare(&bench.raw, self.model, (self.sessions, *rows)).await,
            Target::Beside(floor) => {
                let load = floor.asked(rate)?;
                let measured = bare(&bench.raw, self.model, (self.sessions, 1)).await?;
                load.stop().await?;
                Ok(measured)
            }
        }
    }

    /// Notes what it is to reach.
    fn note(&self, title: &str, all: &[Series], targets: &mut Targets) {
        let Some(terrace) = all.first() else { return };
        for goal in self.goals {
            match *goal {
                Rate(bound) => targets.note(title, "requests/s", bound, terrace.each(RATE)),
                Cpu(bound) => targets.note(title, "µs CPU a request", bound, terrace.each(CPU)),
                Goal::P50(bound) => targets.note(title, "ms, p50", bound, terrace.each(P50)),
                Share(bound) => {
                    let beside = all.iter().find(|series| series.name == BESIDE);
                    let ratios = beside.into_iter().flat_map(|beside| terrace.ratios(beside, RATE));
                    targets.note(title, "of the bare runtime beside the load", bound, ratios);
                }
            }
        }
    }

    async fn targets(&self, bench: &Bench) -> Result<(Vec<(&'static str, Target)>, Vec<String>)> {
        let question = Question::of(self.model, self.encoding, &bench.raw)?;
        let served = (self.model, self.sessions);
        let (terrace, length) = Server::terrace(&bench.models, served, &question).await?;
        let (again, _) = Server::terrace(&bench.models, served, &question).await?;
        let beside = match self.goals.iter().any(|goal| matches!(goal, Share(_))) {
            true => Some(Server::floor(length, &question)?),
            false => None,
        };
        let mut servers =
            vec![(TERRACE, terrace), (AGAIN, again), (FLOOR, Server::floor(length, &question)?)];
        let mut missing = Vec::new();
        for name in bench.peers.that_know(self.encoding) {
            match Server::peer(name, &bench.models, self.model, &question).await {
                Ok(server) => servers.push((name, server)),
                Err(error) => missing.push(format!("{name} is left out here: {error:#}.")),
            }
        }
        let mut targets: Vec<(&'static str, Target)> =
            servers.into_iter().map(|(name, server)| (name, Target::Server(Box::new(server)))).collect();
        targets.push((BARE, Target::Bare { rows: 1 }));
        targets.extend(beside.map(|floor| (BESIDE, Target::Beside(Box::new(floor)))));
        if self.clients > usize::from(self.sessions) {
            targets.push((BATCH, Target::Bare { rows: self.clients / usize::from(self.sessions) }));
        }
        Ok((targets, missing))
    }
}

/// Measures all, and sums up.
pub async fn measure(report: &mut Report, bench: &Bench, targets: &mut Targets) -> Result<()> {
    let mut names: Vec<String> = Vec::new();
    let mut measured = Vec::new();
    for cell in &CELLS {
        let title = cell.title();
        if !bench.has(&title) {
            continue;
        }
        report.section(&title, &format!("A request is a row of {}.", cell.model.shape(1)));
        let (all, missing) = cell.measure(bench).await.with_context(|| title.clone())?;
        compare::table(report, &all);
        cell.note(&title, &all, targets);
        for reason in missing {
            report.say(reason);
        }
        for series in all.iter().skip(1) {
            if !names.contains(&series.name) {
                names.push(series.name.clone());
            }
        }
        measured.push((title, all));
    }
    let columns: Vec<&str> = std::iter::once("").chain(names.iter().map(String::as_str)).collect();
    let sums = [
        (
            "Terrace ÷ other: requests a second",
            "More is better. A row of the bare runtime counts as a request.",
            RATE,
        ),
        ("Terrace ÷ other: CPU time of a request", "Less is better. All processes of the server.", CPU),
    ];
    for (title, method, of) in sums {
        report.section(title, method);
        let rows: Vec<Vec<String>> = measured
            .iter()
            .map(|(title, all)| {
                let ratio = |name: &String| {
                    let other = all.iter().find(|series| series.name == *name);
                    other.map_or_else(String::new, |other| all[0].over(other, of))
                };
                row(title, names.iter().map(ratio))
            })
            .collect();
        report.table(&columns, &rows);
    }
    Ok(())
}
