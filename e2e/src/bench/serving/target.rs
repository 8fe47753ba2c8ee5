//! What is measured, and one measurement of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::cpu;
use super::floor;
use super::generator::{Aim, Answer, Answers, Load};
use super::helper::Helper;
use super::peers;
use super::question::{Model, Question, file};
use super::raw::Raw;
use crate::agent::Agent;
use crate::bench::figures::Samples;
use crate::digits;
use crate::manifests;
use crate::site::Site;

/// Before anything counts.
pub const WARM: Duration = Duration::from_millis(250);
/// As long as counts.
pub const TIME: Duration = Duration::from_secs(1);

/// A server that runs, and what it is asked.
pub struct Server {
    process: Process,
    pub aim: Aim,
    /// When it was last measured, and the CPU time it had used by then.
    left: Option<(Instant, f64)>,
}

enum Process {
    Agent { agent: Agent, _site: Site },
    Helper(Helper),
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub per_second: f64,
    /// Milliseconds.
    pub p50: f64,
    pub p99: f64,
    /// CPU time of all the server's processes for a request, in microseconds.
    pub cpu: f64,
    /// That of the load for a request.
    pub load_cpu: f64,
    /// The share of a core that it used between its measurements.
    pub idle: f64,
    /// In an open loop, how late requests were released, p99 in milliseconds.
    pub late: f64,
}

/// An agent that serves these models with so many sessions each.
pub async fn agent(folder: &Path, models: &[(&Model, u16)]) -> Result<(Agent, Site)> {
    let site = Site::new()?;
    for (model, instances) in models {
        let sha256 = digits::sha256(&std::fs::read(file(folder, model))?);
        let artifact = digits::Artifact { uri: format!("file:///{}.onnx", model.name), sha256 };
        site.manifests().model(&manifests::Model::of(model.name, &artifact).instances(*instances))?;
    }
    let agent = site.agent().add("--file-root", folder).ready().await?;
    Ok((agent, site))
}

impl Server {
    /// An agent of its own for a model, which has answered rightly; and the length of its answers.
    pub async fn terrace(folder: &Path, model: (&Model, u16), question: &Question) -> Result<(Self, usize)> {
        let (agent, site) = agent(folder, &[model]).await?;
        let address = if question.is_grpc() { agent.grpc } else { agent.http };
        let length = question.check(address).await?.len();
        let process = Process::Agent { agent, _site: site };
        Ok((Self::at(address, process, question), length))
    }

    /// A server that does nothing, with answers of so many bytes.
    pub fn floor(length: usize, question: &Question) -> Result<Self> {
        let (helper, port) = floor::start(length)?;
        Ok(Self::at(local(port), Process::Helper(helper), question))
    }

    /// A peer that has answered rightly.
    pub async fn peer(name: &str, folder: &Path, model: &Model, question: &Question) -> Result<Self> {
        let (helper, port) = peers::start(name, &file(folder, model))?;
        question.check(local(port)).await?;
        Ok(Self::at(local(port), Process::Helper(helper), question))
    }

    fn at(address: SocketAddr, process: Process, question: &Question) -> Self {
        let aim = Aim { address, request: question.wire(address), is_grpc: question.is_grpc() };
        Self { process, aim, left: None }
    }

    /// With so many clients, each of which asks again as soon as it is answered.
    pub async fn closed(&mut self, clients: usize) -> Result<Measured> {
        let load = Load::closed(self.aim.clone(), clients)?;
        self.under(load).await
    }

    /// With requests that come at a rate.
    pub async fn open(&mut self, rate: f64) -> Result<Measured> {
        let load = Load::open(self.aim.clone(), rate)?;
        self.under(load).await
    }

    /// The same, as long as what is returned is not stopped, and unmeasured.
    pub fn asked(&self, rate: f64) -> Result<Load> {
        Load::open(self.aim.clone(), rate)
    }

    async fn under(&mut self, load: Load) -> Result<Measured> {
        let pid = self.process.pid();
        let (begun, before) = (Instant::now(), cpu::of_tree(pid)?);
        let idle = self.left.map_or(f64::NAN, |(left, used)| (before - used) / (begun - left).as_secs_f64());
        let window = Window::of(pid).await?;
        let answers = load.stop().await?;
        self.left = Some((Instant::now(), cpu::of_tree(pid)?));
        Ok(Measured { idle, ..window.measured(&answers)? })
    }
}

impl Process {
    fn pid(&self) -> u32 {
        match self {
            Self::Agent { agent, .. } => agent.pid(),
            Self::Helper(helper) => helper.pid(),
        }
    }
}

/// The time that counts, and what a server used in it.
pub struct Window {
    begin: Instant,
    end: Instant,
    used: f64,
}

impl Window {
    /// Waits until the load is in its stride, then for as long as counts.
    pub async fn of(server: u32) -> Result<Self> {
        tokio::time::sleep(WARM).await;
        let (begin, before) = (Instant::now(), cpu::of_tree(server)?);
        tokio::time::sleep(TIME).await;
        let (end, after) = (Instant::now(), cpu::of_tree(server)?);
        Ok(Self { begin, end, used: after - before })
    }

    /// What was answered in it.
    pub fn measured(&self, answers: &Answers) -> Result<Measured> {
        let counts = |answer: &&Answer| (self.begin..self.end).contains(&answer.done);
        let times: Samples =
            answers.all.iter().filter(counts).map(|answer| answer.took.as_secs_f64() * 1e3).collect();
        ensure!(times.len() > 0, "nothing was answered within {TIME:?}");
        let late: Samples = answers.late.iter().map(|late| late.as_secs_f64() * 1e3).collect();
        let count = times.len() as f64;
        Ok(Measured {
            per_second: count / (self.end - self.begin).as_secs_f64(),
            p50: times.median(),
            p99: times.quantile(0.99),
            cpu: self.used * 1e6 / count,
            load_cpu: answers.cpu,
            idle: f64::NAN,
            late: late.quantile(0.99),
        })
    }
}

/// The bare runtime with so many sessions, so many rows a run; a row counts as a request.
pub async fn bare(raw: &Raw, model: &Model, (sessions, rows): (u16, usize)) -> Result<Measured> {
    let runs = raw.run(model, (sessions, rows), WARM, TIME).await?;
    let none = f64::NAN;
    Ok(Measured {
        per_second: runs.per_second,
        p50: none,
        p99: none,
        cpu: runs.cpu,
        load_cpu: none,
        idle: none,
        late: none,
    })
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
