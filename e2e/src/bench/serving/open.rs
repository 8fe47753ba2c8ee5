//! Requests that come whether or not others are answered.

use anyhow::Result;

use super::Bench;
use super::cells::{AGAIN, FLOOR, TERRACE};
use super::compare::{CPU, P50, P99, RATE, Series};
use super::question::{Encoding, MLP, Question};
use super::target::Server;
use crate::bench::figures::{Report, figure, row};

const CLIENTS: usize = 32;
const SHARES: [f64; 2] = [0.5, 0.8];

pub async fn measure(report: &mut Report, bench: &Bench) -> Result<()> {
    report.section(
        "Requests that come as they come",
        &format!(
            "mlp in binary. What Terrace and each other answer {CLIENTS} clients that ask without pause is the capacity, \
             taken anew in each round, which measures them in the same order. Then requests come at random (Poisson) at {} and {} % of Terrace's capacity, or of \
             the server's own where that is less. Latency counts from when a request was due, so that one that waits \
             for the load or a connection counts as waiting; how late the load itself was is in the table.",
            SHARES[0] * 100.0,
            SHARES[1] * 100.0
        ),
    );
    let question = Question::of(&MLP, Encoding::Binary, &bench.raw)?;
    let (terrace, length) = Server::terrace(&bench.models, (&MLP, 1), &question).await?;
    let (again, _) = Server::terrace(&bench.models, (&MLP, 1), &question).await?;
    let mut servers = vec![(TERRACE, terrace), (AGAIN, again), (FLOOR, Server::floor(length, &question)?)];
    for name in bench.peers.that_know(Encoding::Binary) {
        match Server::peer(name, &bench.models, &MLP, &question).await {
            Ok(server) => servers.push((name, server)),
            Err(error) => report.say(format_args!("{name} is left out here: {error:#}.")),
        }
    }

    let mut all: Vec<[Series; 2]> = servers
        .iter()
        .map(|(name, _)| SHARES.map(|share| Series::named(format!("{name}, {} %", share * 100.0))))
        .collect();
    let mut capacities: Vec<Series> = servers.iter().map(|(name, _)| Series::named(*name)).collect();
    for _ in 0..bench.rounds {
        let mut most = f64::INFINITY;
        for ((index, (_, server)), capacity) in servers.iter_mut().enumerate().zip(&mut capacities) {
            let measured = server.closed(CLIENTS).await?;
            capacity.rounds.push(measured);
            if index == 0 {
                most = measured.per_second;
            }
            for (share, series) in SHARES.iter().zip(&mut all[index]) {
                series.rounds.push(server.open(share * most.min(measured.per_second)).await?);
            }
        }
    }
    let lines = |capacity: &Series, shares: &[Series; 2]| {
        let figures = [RATE, P50, P99, CPU, |measured| measured.late];
        let lines: Vec<Vec<String>> = shares
            .iter()
            .zip(&all[0])
            .map(|(series, first)| {
                let ratios = if std::ptr::eq(series, first) {
                    [const { String::new() }; 2]
                } else {
                    [P50, P99].map(|of| first.over(series, of))
                };
                let cells = figures.map(|figure| series.cell(figure)).into_iter().chain(ratios);
                row(&series.name, std::iter::once(figure(capacity.median(RATE))).chain(cells))
            })
            .collect();
        lines
    };
    let rows: Vec<Vec<String>> =
        capacities.iter().zip(&all).flat_map(|(capacity, shares)| lines(capacity, shares)).collect();
    report.table(
        &[
            "",
            "capacity",
            "requests/s",
            "p50 ms",
            "p99 ms",
            "CPU µs",
            "load late, p99 ms",
            "Terrace ÷ this: p50",
            "p99",
        ],
        &rows,
    );
    Ok(())
}
