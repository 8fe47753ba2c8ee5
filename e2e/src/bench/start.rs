//! From the start of the process to its first answer, with its model on disk.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::figures::{Report, Samples, figure, row};
use super::holder::Holder;
use crate::digits;
use crate::http::{Reply, Request, send};
use crate::infer::Ask;
use crate::manifests::Model;
use crate::site::Site;

const ROUNDS: usize = 40;
const LIMIT: Duration = Duration::from_secs(10);

pub async fn measure(report: &mut Report) -> Result<()> {
    report.section(
        "Start to first answer",
        &format!(
            "An agent that has served the digits before and was killed (`kill -9`) is started again; a client asks for \
             a digit until it is answered. Beside it a C program that loads the same model into the same runtime and \
             runs it once, to the word \"ready\". {ROUNDS} starts each, alternating; page cache warm. \
             Target: 300 ms."
        ),
    );
    let holder = Holder::compile()?;
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let request = Ask::image(&digits::test_set().images[0]).request();
    site.agent().ready().await?.kill9()?;

    let (mut agent, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let address = free_address()?;
        let launch = site.agent().set("--listen-http", address.to_string());
        let begun = Instant::now();
        let running = launch.spawn()?;
        first_answer(address, &request, begun).await?;
        agent.push(begun.elapsed().as_secs_f64() * 1e3);
        running.kill9()?;

        let begun = Instant::now();
        let holding = holder.start(&["digits-device"])?;
        floor.push(begun.elapsed().as_secs_f64() * 1e3);
        drop(holding);
    }
    let (agent, floor): (Samples, Samples) = (agent.into_iter().collect(), floor.into_iter().collect());
    report.table(
        &["", "p50 ms", "p99 ms", "max ms"],
        &[row("agent, first answer", agent.cells()), row("C program, ready", floor.cells())],
    );
    report.say(format_args!(
        "Ratio of the medians {}; Terrace adds {} ms to the runtime's own start.",
        figure(agent.median() / floor.median()),
        figure(agent.median() - floor.median())
    ));
    Ok(())
}

/// Asks until there is an answer, on a new connection each time.
async fn first_answer(address: SocketAddr, request: &Request, begun: Instant) -> Result<Reply> {
    loop {
        if let Ok(reply) = send(address, request).await
            && reply.status == 200
        {
            return Ok(reply);
        }
        ensure!(begun.elapsed() < LIMIT, "no answer after {LIMIT:?}");
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
}

/// An address that nobody listens at.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}
