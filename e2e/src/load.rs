//! Clients that ask one after the other, each on its own connection, until they are told to stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinHandle;

use crate::agent::Agent;
use crate::expected::Expected;

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<Vec<Answer>>>>,
}

/// One answer, which was right.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The revision that gave it.
    pub revision: String,
    /// When it was asked for; where the answer before it came too late for that, when it should have been.
    pub due: Instant,
    /// From then until it was there.
    pub took: Duration,
}

/// How clients ask.
#[derive(Clone, Copy, Debug)]
pub enum Rhythm {
    /// As soon as the last answer is there.
    WithoutPause,
    /// Once in this time, whether or not the last answer came in time: what waits for it counts as waiting.
    Every(Duration),
}

impl Load {
    /// Starts clients of the model that `expected` knows.
    pub async fn start(
        agent: &Agent,
        expected: &Arc<Expected>,
        clients: usize,
        rhythm: Rhythm,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for client in 0..clients {
            let mut connection = agent.connect().await?;
            let (expected, stop) = (Arc::clone(expected), Arc::clone(&stop));
            tasks.push(tokio::spawn(async move {
                let mut answers = Vec::new();
                let mut next = Instant::now();
                let mut due = next;
                let mut image = client;
                while !stop.load(Ordering::Relaxed) {
                    let reply = connection.send(expected.request(image)).await?;
                    let took = due.elapsed();
                    answers.push(Answer { revision: expected.check(image, reply)?, due, took });
                    image += 1;
                    next = match rhythm {
                        Rhythm::WithoutPause => Instant::now(),
                        Rhythm::Every(interval) => next + interval,
                    };
                    due = next;
                    if Instant::now() < next {
                        tokio::time::sleep_until(next.into()).await;
                        // A timer that fires late is the client's fault.
                        due = Instant::now();
                    }
                }
                Ok(answers)
            }));
        }
        Ok(Self { stop, clients: tasks })
    }

    /// What was answered. Fails if any request did, or if an answer was not exactly that of its revision.
    pub async fn stop(self) -> Result<Vec<Answer>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for client in self.clients {
            all.extend(client.await??);
        }
        Ok(all)
    }
}

/// How many answers each revision gave.
pub fn by_revision(answers: &[Answer]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.revision.as_str()).or_insert(0) += 1;
    }
    counts
}
