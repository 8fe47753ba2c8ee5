//! A small model beside a big one that is asked without pause.

use anyhow::Result;

use super::Bench;
use super::cells::FLOOR;
use super::compare::{P50, P99, RATE, Series};
use super::generator::{Aim, Load};
use super::question::{CNN, Encoding, MLP, Question};
use super::target::{Measured, Server, Window, agent};
use super::targets::{Bound, Targets};
use crate::agent::Agent;
use crate::bench::figures::{Report, row};
use crate::site::Site;

const BIG_CLIENTS: usize = 4;

/// An agent with both models.
struct Both {
    agent: Agent,
    _site: Site,
    small: Aim,
    big: Aim,
}

impl Both {
    async fn start(bench: &Bench, small: &Question, big: &Question) -> Result<Self> {
        let (agent, site) = agent(&bench.models, &[(&MLP, 1), (&CNN, 1)]).await?;
        let address = agent.http;
        small.check(address).await?;
        big.check(address).await?;
        let aim = |question: &Question| Aim { address, request: question.wire(address), is_grpc: false };
        Ok(Self { small: aim(small), big: aim(big), agent, _site: site })
    }

    /// What one client of the small model sees; and how many requests a second the big one answers meanwhile.
    async fn measure(&self, big: Option<&Aim>) -> Result<(Measured, Measured)> {
        let beside = big.map(|aim| Load::closed(aim.clone(), BIG_CLIENTS)).transpose()?;
        let load = Load::closed(self.small.clone(), 1)?;
        let window = Window::of(self.agent.pid()).await?;
        let small = window.measured(&load.stop().await?)?;
        let big = match beside {
            Some(beside) => window.measured(&beside.stop().await?)?,
            None => Measured { per_second: f64::NAN, ..small },
        };
        Ok((small, big))
    }
}

pub async fn measure(report: &mut Report, bench: &Bench, targets: &mut Targets) -> Result<()> {
    report.section(
        "A small model beside a big one",
        &format!(
            "One client asks for mlp in binary while {BIG_CLIENTS} clients ask for cnn without pause. The same cnn in \
             another agent shows what sharing the machine costs, and a server that does nothing beside a C program that \
             runs cnn in one thread what no server can avoid. A round measures them in the same order. Peers serve one model here and are \
             left out."
        ),
    );
    let small = Question::of(&MLP, Encoding::Binary, &bench.raw)?;
    let big = Question::of(&CNN, Encoding::Binary, &bench.raw)?;
    let both = Both::start(bench, &small, &big).await?;
    let other = Both::start(bench, &small, &big).await?;
    let mut floor = Server::floor(small.check(both.agent.http).await?.len(), &small)?;

    let mut all = [
        "cnn in the same agent",
        "cnn in another agent",
        "nothing beside it",
        &format!("{FLOOR}, cnn in a C program"),
    ]
    .map(|name| (Series::named(name), Series::named("cnn")));
    for _ in 0..bench.rounds {
        let busy = bench.raw.busy(&CNN)?;
        let beside_busy = floor.closed(1).await?;
        drop(busy);
        let measured = [
            both.measure(Some(&both.big)).await?,
            both.measure(Some(&other.big)).await?,
            both.measure(None).await?,
            (beside_busy, Measured { per_second: f64::NAN, ..beside_busy }),
        ];
        for ((small, big), (of_small, of_big)) in all.iter_mut().zip(measured) {
            small.rounds.push(of_small);
            big.rounds.push(of_big);
        }
    }
    let first = &all[0].0;
    targets.note(
        "mlp, binary, 1 client, while cnn is asked without pause",
        "ms, p50",
        Bound::AtMost(0.1),
        first.each(P50),
    );
    let rows: Vec<Vec<String>> = all
        .iter()
        .enumerate()
        .map(|(place, (small, big))| {
            let cells = [small.cell(P50), small.cell(P99), big.cell(RATE)];
            let ratio = |of| if place == 0 { String::new() } else { first.over(small, of) };
            row(&small.name, cells.into_iter().chain([P50, P99].map(ratio)))
        })
        .collect();
    report.table(
        &["beside mlp", "p50 ms", "p99 ms", "cnn requests/s", "first ÷ this: p50", "first ÷ this: p99"],
        &rows,
    );
    Ok(())
}
