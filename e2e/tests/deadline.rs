//! An answer in time, or word that there is none.
//!
//! The invariant is "no later than the deadline + 5 ms at the client". A machine with two cores that also runs the
//! client, other tiers and a compiler cannot measure that for each single reply: whoever is descheduled for 10 ms sees
//! 10 ms. So each reply is held to the agent's own clock, 99 of 100 to the deadline + 50 ms at the client, and 90 of 100 to
//! the 5 ms. `make bench` measures the strict figure on a quiet machine. There is one test in this
//! file, so that nothing else of it runs meanwhile.

use std::time::Duration;

use anyhow::{Result, ensure};
use terrace_e2e::digits;
use terrace_e2e::http::Reply;
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::site::Site;
use terrace_e2e::upstreams::{self, BlackHole, Refused};

const DEADLINES_MS: [u32; 9] = [20, 35, 50, 75, 100, 150, 200, 300, 500];
const ROUNDS: usize = 8;
/// What the invariant grants at the client.
const GRACE_MS: f64 = 5.0;
/// What a hiccup of the machine excuses, and no more than one in a hundred of them.
const HICCUP_MS: f64 = 50.0;

/// One reply against its deadline.
struct Sample {
    name: String,
    deadline: f64,
    reply: Reply,
}

impl Sample {
    fn over(&self) -> f64 {
        self.reply.took.as_secs_f64() * 1e3 - self.deadline
    }

    fn told(&self) -> String {
        let walk = self.reply.walk().unwrap_or_else(|_| self.reply.text());
        format!(
            "{} within {} ms took {:.1} ms: {walk}",
            self.name,
            self.deadline,
            self.deadline + self.over()
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reply_comes_by_the_deadline_however_the_tiers_stall() -> Result<()> {
    let (black_hole, refused) = (BlackHole::new().await?, Refused::new()?);
    let (silent, slow) = (upstreams::silent().await?, upstreams::slow(Duration::from_millis(60)).await?);
    let dribbling = upstreams::dribbling(Duration::from_millis(3)).await?;
    let site = Site::new()?;
    let tiers = [
        ("black-hole", black_hole.url()),
        ("silent", silent.url()),
        ("slow", slow.url()),
        ("dribbling", dribbling.url()),
        ("refused", refused.url()),
    ];
    let mut names = Vec::new();
    for (name, url) in &tiers {
        for (kind, fallback) in [("falls-back", "{enabled: true}"), ("stays", "{enabled: false}")] {
            let name = format!("{name}-{kind}");
            // The edge stalls as well: two attempts may not take twice the time.
            let policy = Policy::named(&name).cloud(url).edge(&black_hole.url()).fallback(fallback);
            site.manifests().policy(&policy)?;
            site.manifests().model(&Model::digits("digits-device")?.named(&name).policy(&name))?;
            names.push(name);
        }
    }
    let device = site.agent().ready().await?;
    let image = &digits::test_set().images[0];

    let mut samples = Vec::new();
    for _ in 0..ROUNDS {
        for deadline in DEADLINES_MS {
            let burst: Vec<_> = names
                .iter()
                .map(|name| {
                    let ask = Ask::image(image).model(name).complexity(0.9).within(deadline);
                    // Where a tier is asked for, nobody else steps in.
                    let ask = if name.ends_with("-stays") { ask.parameter("tier", "cloud") } else { ask };
                    let (address, request) = (device.http, ask.request());
                    let name = name.clone();
                    tokio::spawn(async move { (name, terrace_e2e::http::send(address, &request).await) })
                })
                .collect();
            for sample in burst {
                let (name, reply) = sample.await?;
                samples.push(Sample { name, deadline: deadline.into(), reply: reply? });
            }
        }
    }

    let mut late = Vec::new();
    for sample in &samples {
        let status = sample.reply.status;
        let expected: &[u16] = if sample.name.ends_with("-stays") { &[200, 503, 504] } else { &[200, 504] };
        ensure!(expected.contains(&status), "{status}: {}", sample.told());
        if status == 200 {
            let clock = sample.reply.latency_ms()?;
            // The answer is ready by the deadline, and then has to be written: invariant 2 grants it the same grace.
            assert!(
                clock <= sample.deadline + GRACE_MS,
                "{clock} ms by the agent's clock: {}",
                sample.told()
            );
        }
        if sample.over() > GRACE_MS {
            late.push(sample.told());
        }
    }
    let stalled: Vec<String> =
        samples.iter().filter(|sample| sample.over() > HICCUP_MS).map(Sample::told).collect();
    assert!(stalled.len() * 100 <= samples.len(), "far too late: {stalled:#?}");
    assert!(
        late.len() * 10 <= samples.len(),
        "{} of {} came late:\n{}",
        late.len(),
        samples.len(),
        late.join("\n")
    );

    // The device was kept time to step in: a stalled tier costs the deadline, not the answer. Of the shortest
    // deadlines a hiccup of the machine eats all that was kept, so they are not asked.
    let fell_back = samples
        .iter()
        .filter(|sample| sample.name.ends_with("-falls-back") && sample.deadline >= 2.0 * HICCUP_MS);
    let (answered, asked) = fell_back.fold((0, 0), |(answered, asked), sample| {
        (answered + usize::from(sample.reply.status == 200), asked + 1)
    });
    let unanswered = || {
        let told = samples.iter().filter(|s| s.reply.status != 200 && s.name.ends_with("-falls-back"));
        told.map(Sample::told).collect::<Vec<_>>().join("\n")
    };
    assert!(
        answered * 20 >= asked * 19,
        "only {answered} of {asked} were answered at all:\n{}",
        unanswered()
    );
    Ok(())
}
