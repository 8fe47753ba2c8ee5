//! What a cloud that does not answer costs each request, and whether deadlines hold meanwhile.

use anyhow::Result;

use super::figures::{Report, Samples, figure, row};
use crate::agent::Agent;
use crate::digits;
use crate::http::{Connection, Reply};
use crate::infer::Ask;
use crate::manifests::{Model, Policy};
use crate::site::Site;
use crate::upstreams::{self, BlackHole, Refused};

const QUICK_ROUNDS: usize = 500;
const STALLED_EVERY: usize = 12;
const LATE_ROUNDS: usize = 40;
const DEADLINES_MS: [u32; 4] = [20, 50, 100, 200];
/// What invariant 2 grants at the client.
const GRACE_MS: f64 = 5.0;

/// One way to ask, and what came of it.
struct Cell {
    name: &'static str,
    ask: Ask,
    every: usize,
    replies: Vec<Reply>,
}

impl Cell {
    const fn new(name: &'static str, ask: Ask, every: usize) -> Self {
        Self { name, ask, every, replies: Vec::new() }
    }

    fn took(&self) -> Samples {
        self.replies.iter().map(|reply| reply.took.as_secs_f64() * 1e3).collect()
    }

    /// The time in attempts that gave no answer.
    fn wasted(&self) -> Result<Samples> {
        let wasted = self.replies.iter().map(|reply| {
            let attempts = reply.attempts()?;
            // Not `sum`: that of no attempts is -0.
            let failed = attempts.iter().filter(|attempt| attempt.outcome != "Answered");
            Ok(failed.fold(0.0, |sum, attempt| sum + attempt.ms))
        });
        wasted.collect()
    }
}

pub async fn measure(report: &mut Report) -> Result<()> {
    let (refused, black_hole) = (Refused::new()?, BlackHole::new().await?);
    let silent = upstreams::silent().await?;
    let site = Site::new()?;
    for (name, cloud) in
        [("refused", refused.url()), ("black-holed", black_hole.url()), ("silent", silent.url())]
    {
        let mut policy = Policy::named(name).cloud(&cloud).timeout("200ms");
        if name == "silent" {
            policy = policy.edge(&cloud).timeout("1s").fallback("{order: [Device]}");
        }
        site.manifests().policy(&policy)?;
        site.manifests().model(&Model::digits("digits-device")?.named(name).policy(name))?;
    }
    let device = site.agent().ready().await?;
    wasted_time(report, &device).await?;
    lateness(report, &device).await
}

async fn wasted_time(report: &mut Report, device: &Agent) -> Result<()> {
    report.section(
        "Time wasted on a cloud that is away",
        &format!(
            "One client asks for what the cloud should answer; the device answers as fallback. Wasted is the time of \
             the attempts that gave no answer, by the agent's clock. The cloud's time-out is 200 ms. Round robin; \
             {QUICK_ROUNDS} rounds, black-holed in every {STALLED_EVERY}th of them. The first two rows are the same request: \
             how far they differ is the noise."
        ),
    );
    let image = &digits::test_set().images[0];
    let ask = |model: &str| Ask::image(image).model(model).complexity(0.9);
    let mut cells = [
        Cell::new("nothing is tried but the device", ask("refused").private(), 1),
        Cell::new("the same again", ask("refused").private(), 1),
        Cell::new("cloud refuses connections", ask("refused"), 1),
        Cell::new("cloud black-holed", ask("black-holed"), STALLED_EVERY),
        // The rules prefer the edge where there is less than 200 ms; this policy has none, so the device answers.
        Cell::new("the same, max_latency_ms 100", ask("black-holed").within(100), STALLED_EVERY),
        Cell::new("the same, max_latency_ms 250", ask("black-holed").within(250), STALLED_EVERY),
    ];
    let mut connection = Connection::open(device.http).await?;
    for round in 0..QUICK_ROUNDS {
        for cell in &mut cells {
            if round % cell.every == 0 {
                cell.replies.push(connection.send(&cell.ask.request()).await?.answered()?);
            }
        }
    }
    let mut rows = Vec::new();
    for cell in &cells {
        let wasted = cell.wasted()?;
        let wasted = [figure(wasted.median()), figure(wasted.quantile(0.99))];
        let count = std::iter::once(cell.replies.len().to_string());
        rows.push(row(cell.name, count.chain(wasted).chain(cell.took().cells())));
    }
    report.table(
        &[
            "",
            "requests",
            "wasted p50 ms",
            "wasted p99 ms",
            "client p50 ms",
            "client p99 ms",
            "client max ms",
        ],
        &rows,
    );
    let (one, again, refused) =
        (cells[0].took().median(), cells[1].took().median(), cells[2].took().median());
    report.say(format_args!(
        "A refused cloud makes the median request {} times as long ({} ms more); the noise is {}.",
        figure(refused / one),
        figure(refused - one),
        figure(again / one)
    ));
    Ok(())
}

async fn lateness(report: &mut Report, device: &Agent) -> Result<()> {
    report.section(
        "Deadlines",
        &format!(
            "Edge and cloud take requests and never answer; one client asks within {DEADLINES_MS:?} ms, {LATE_ROUNDS} \
             rounds. Late is how long after its deadline a reply reached the client, negative where it came before. A \
             miss is later than {GRACE_MS} ms."
        ),
    );
    let image = &digits::test_set().images[0];
    let mut connection = Connection::open(device.http).await?;
    let mut samples: Vec<(u32, f64, bool)> = Vec::new();
    for _ in 0..LATE_ROUNDS {
        for deadline in DEADLINES_MS {
            let ask = Ask::image(image).model("silent").complexity(0.9).within(deadline);
            let reply = connection.send(&ask.request()).await?;
            let late = reply.took.as_secs_f64() * 1e3 - f64::from(deadline);
            samples.push((deadline, late, reply.status == 200));
        }
    }
    let rows: Vec<Vec<String>> = DEADLINES_MS
        .iter()
        .map(|deadline| {
            let of: Vec<_> = samples.iter().filter(|sample| sample.0 == *deadline).collect();
            let late: Samples = of.iter().map(|sample| sample.1).collect();
            let misses = of.iter().filter(|sample| sample.1 > GRACE_MS).count();
            let answered = of.iter().filter(|sample| sample.2).count();
            let counts = [of.len(), answered, misses].map(|count| count.to_string());
            row(&format!("{deadline} ms"), counts.into_iter().chain(late.cells()))
        })
        .collect();
    report.table(
        &[
            "deadline",
            "requests",
            "answered by the device",
            "misses",
            "late p50 ms",
            "late p99 ms",
            "late max ms",
        ],
        &rows,
    );
    Ok(())
}
