//! What a cloud that does not answer costs each request, and whether deadlines hold meanwhile.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::figures::{Report, Samples, figure, row};
use crate::agent::Agent;
use crate::digits;
use crate::http::{Connection, Reply};
use crate::infer::Ask;
use crate::manifests::{Model, Policy};
use crate::server::{Pace, Server};
use crate::site::Site;
use crate::upstreams::{self, BlackHole, Refused};

const ROUNDS: usize = 500;
const LATE_ROUNDS: usize = 40;
const DEADLINES_MS: [u32; 4] = [20, 50, 100, 200];
/// What invariant 2 grants at the client.
const GRACE_MS: f64 = 5.0;

/// One way to ask, and what came of it.
struct Cell {
    name: &'static str,
    ask: Ask,
    deadline_ms: Option<u32>,
    replies: Vec<Reply>,
}

impl Cell {
    const fn new(name: &'static str, ask: Ask) -> Self {
        Self { name, ask, deadline_ms: None, replies: Vec::new() }
    }

    fn within(name: &'static str, ask: Ask, deadline_ms: u32) -> Self {
        Self { deadline_ms: Some(deadline_ms), ..Self::new(name, ask.within(deadline_ms)) }
    }

    /// Replies that were none, or a failure of ours: the device was up all the time.
    fn lost(&self) -> usize {
        self.replies.iter().filter(|reply| reply.status != 200).count()
    }

    /// Replies that came too late for their client.
    fn missed(&self) -> usize {
        let Some(deadline) = self.deadline_ms else { return 0 };
        let limit = f64::from(deadline) + GRACE_MS;
        self.replies.iter().filter(|reply| reply.took.as_secs_f64() * 1e3 > limit).count()
    }

    fn took(&self) -> Samples {
        self.replies.iter().map(|reply| reply.took.as_secs_f64() * 1e3).collect()
    }

    /// The time in attempts that gave no answer.
    fn wasted(&self) -> Result<Samples> {
        let answered = self.replies.iter().filter(|reply| reply.status == 200);
        let wasted = answered.map(|reply| {
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
    let hanging_up = upstreams::planned(upstreams::outputs().pace(Pace::HangUp)).await?;
    let slow = upstreams::slow(SLOW).await?;
    let flapping = flapping().await?;
    let site = Site::new()?;
    for (name, cloud) in [
        ("refused", refused.url()),
        ("black-holed", black_hole.url()),
        ("hanging-up", hanging_up.url()),
        ("slow", slow.url()),
        ("flapping", flapping.url()),
        ("silent", silent.url()),
    ] {
        let mut policy =
            Policy::named(name).cloud(&cloud).timeout("2s").having("breaker: {period: 1s, maxPeriod: 1s}");
        if name == "silent" {
            // Asked again and again, so that every request has to be given up in time.
            policy = Policy::named(name).cloud(&cloud).timeout("200ms").having("breaker: {failures: 1000}");
            policy = policy
                .edge(&cloud)
                .timeout("1s")
                .having("breaker: {failures: 1000}")
                .fallback("{order: [Device]}");
        }
        site.manifests().policy(&policy)?;
        site.manifests().model(&Model::digits("digits-device")?.named(name).policy(name))?;
    }
    let device = site.agent().ready().await?;
    wasted_time(report, &device, &hanging_up).await?;
    lateness(report, &device).await
}

/// Ten times what a cloud takes that is well.
const SLOW: Duration = Duration::from_millis(500);
/// How long a flapping cloud is up, and then down.
const FLAP: Duration = Duration::from_millis(400);

/// A cloud that answers for a while, then hangs up for a while.
async fn flapping() -> Result<Server> {
    let begun = Instant::now();
    Server::start(move |_| {
        let is_up = (begun.elapsed().as_millis() / FLAP.as_millis()).is_multiple_of(2);
        upstreams::outputs().pace(if is_up { Pace::AtOnce } else { Pace::HangUp })
    })
    .await
}

async fn wasted_time(report: &mut Report, device: &Agent, hanging_up: &Server) -> Result<()> {
    report.section(
        "Time wasted on a cloud that is away",
        &format!(
            "One client asks for what the cloud should answer; where it does not, the device answers as fallback. Wasted is \
             the time of the attempts that gave no answer, by the agent's clock. The cloud's time-out is 2 s, its breaker \
             opens after 3 failures for 1 s each time. Round robin, {ROUNDS} rounds; a slow cloud takes {} ms, a flapping one \
             is up and down for {} ms each. Lost is a request without an answer of status 200; a miss comes later than \
             {GRACE_MS} ms after its deadline. The first two rows are the same request: how far they differ is the noise.",
            SLOW.as_millis(),
            FLAP.as_millis()
        ),
    );
    let image = &digits::test_set().images[0];
    let ask = |model: &str| Ask::image(image).model(model).complexity(0.9);
    let mut cells = [
        Cell::new("nothing is tried but the device", ask("refused").private()),
        Cell::new("the same again", ask("refused").private()),
        Cell::new("cloud refuses connections", ask("refused")),
        Cell::within("the same, within 250 ms", ask("refused"), 250),
        Cell::within("cloud black-holed, within 250 ms", ask("black-holed"), 250),
        Cell::new("the same, no deadline", ask("black-holed")),
        Cell::new("cloud hangs up", ask("hanging-up")),
        Cell::within("cloud ten times as slow, within 250 ms", ask("slow"), 250),
        Cell::within("cloud flapping, within 250 ms", ask("flapping"), 250),
    ];
    let mut connection = Connection::open(device.http).await?;
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        for cell in &mut cells {
            cell.replies.push(connection.send(&cell.ask.request()).await?);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut rows = Vec::new();
    for cell in &cells {
        let wasted = cell.wasted()?;
        let wasted = [wasted.median(), wasted.quantile(0.99), wasted.max()].map(figure);
        let counts = [cell.replies.len(), cell.lost(), cell.missed()].map(|count| count.to_string());
        rows.push(row(cell.name, counts.into_iter().chain(wasted).chain(cell.took().cells())));
    }
    report.table(
        &[
            "",
            "requests",
            "lost",
            "misses",
            "wasted p50 ms",
            "wasted p99 ms",
            "wasted max ms",
            "client p50 ms",
            "client p99 ms",
            "client max ms",
        ],
        &rows,
    );
    let (one, again, refused) =
        (cells[0].took().median(), cells[1].took().median(), cells[2].took().median());
    report.say(format_args!(
        "A refused cloud makes the median request {} times as long ({} ms more); the noise is {}. The cloud that hangs up was \
         connected to {} times in {} s: three times until its breaker opened, then once a period.",
        figure(refused / one),
        figure(refused - one),
        figure(again / one),
        hanging_up.connections(),
        figure(seconds)
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
