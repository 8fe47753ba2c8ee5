//! An operator, as a process.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::clock;
use super::process::Process;
use crate::agent::executable;
use crate::http::{self, Request};
use crate::wait;

/// An operator to be started.
#[derive(Clone, Debug)]
pub struct OperatorLaunch {
    identity: String,
    log: PathBuf,
    lease: String,
    more: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
}

/// An operator that runs. Killed when dropped.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    /// Its admin port.
    pub admin: SocketAddr,
}

impl OperatorLaunch {
    pub(super) fn new(identity: &str, kubeconfig: PathBuf, folder: &Path) -> Self {
        Self {
            identity: identity.to_owned(),
            log: folder.join(format!("{identity}.log")),
            lease: "3s".to_owned(),
            more: Vec::new(),
            environment: vec![("KUBECONFIG", kubeconfig.into())],
        }
    }

    /// With one more flag.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<OsString>) -> Self {
        self.more.push(flag.into());
        self
    }

    /// With a wall clock that is so many seconds ahead of the machine's, or behind it.
    pub fn with_clock_ahead(mut self, seconds: i32) -> Result<Self> {
        let folder = self.log.parent().context("no folder")?;
        self.environment.push(("LD_PRELOAD", clock::compile(folder)?.into()));
        self.environment.push(("CLOCK_SHIFT_S", seconds.to_string().into()));
        Ok(self)
    }

    /// Starts it; returns as soon as its port is bound.
    pub async fn start(&self) -> Result<Operator> {
        let before = std::fs::metadata(&self.log).map_or(0, |file| file.len());
        let program = executable("terrace-operator")?;
        let own =
            ["--listen-admin=127.0.0.1:0", "--identity", &self.identity, "--lease-duration", &self.lease];
        let arguments: Vec<OsString> =
            own.map(OsString::from).into_iter().chain(self.more.iter().cloned()).collect();
        let environment: Vec<(&str, &OsStr)> =
            self.environment.iter().map(|(name, value)| (*name, value.as_os_str())).collect();
        let mut process = Process::start(&program, &arguments, &environment, &self.log)?;
        let admin = wait::until("the operator to bind its port", || {
            let log = process.log();
            let line = log.get(usize::try_from(before).unwrap_or(0)..).and_then(|log| {
                log.lines().find(|line| line.contains("operator starting") && line.contains(" admin="))
            });
            let address = line.and_then(|line| {
                line.split_whitespace().find_map(|word| word.strip_prefix("admin=")?.parse().ok())
            });
            let ended = process.ended();
            async move {
                ensure!(ended?.is_none(), "it ended:\n{log}");
                address.context("it says nothing of it")
            }
        })
        .await?;
        Ok(Operator { process, admin })
    }

    /// Starts it, and waits until it leads.
    pub async fn leading(&self) -> Result<Operator> {
        let operator = self.start().await?;
        operator.wait_health("leads").await?;
        Ok(operator)
    }
}

impl Operator {
    /// Waits until `/readyz` says this.
    pub async fn wait_health(&self, text: &str) -> Result<()> {
        wait::until("the operator's health", || async {
            let reply = http::send(self.admin, &Request::get("/readyz")).await?;
            ensure!(
                reply.text().contains(text),
                "{} {}\n{}",
                reply.status,
                reply.text(),
                self.process.last_words()
            );
            Ok(())
        })
        .await
    }

    /// The value of a metric, summed over its labels.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = http::send(self.admin, &Request::get("/metrics")).await?.text();
        let values = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        values.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<f64>()?)).sum()
    }

    /// Everything that replicas of this identity wrote.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it on the spot.
    pub fn kill9(mut self) -> Result<()> {
        self.process.kill9()
    }

    /// Asks it to end, and waits until it has.
    pub async fn stop(self) -> Result<std::process::ExitStatus> {
        self.process.signal(Signal::TERM)?;
        self.wait_ended(Duration::from_secs(20)).await
    }

    /// Waits until it has ended by itself.
    pub async fn wait_ended(mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let process = &mut self.process;
        let status = wait::until_within("the operator to end", limit, || {
            let ended = process.ended();
            async move { ended?.context("it still runs") }
        })
        .await;
        status.with_context(|| self.process.last_words())
    }
}
