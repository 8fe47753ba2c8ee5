//! One agent: a process with two ports, a log, and an end that the caller chooses.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use terrace_crds::InferenceNodeStatus;
use terrace_crds::node::{ModelPhase, NodeModelStatus};

use crate::http::{self, Connection, Reply, Request};
use crate::infer::Ask;
use crate::site::Site;
use crate::wait;
use crate::{checkout, digits};

/// An agent to be started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Flags that are given once.
    flags: BTreeMap<String, OsString>,
    /// Flags as they come: those that are given several times, and those without a value.
    more: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    /// Where each process has a log of its own.
    logs: PathBuf,
}

/// An agent that runs. Killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: PathBuf,
    /// The data port.
    pub http: SocketAddr,
    /// The gRPC port.
    pub grpc: SocketAddr,
    /// The admin port.
    pub admin: SocketAddr,
}

/// How a process ended.
#[derive(Debug)]
pub struct Exit {
    /// The status; its code is none where a signal ended it.
    pub status: ExitStatus,
    /// What it wrote.
    pub log: String,
}

impl Launch {
    pub(crate) fn at(site: &Site) -> Self {
        let mut launch = Self {
            flags: BTreeMap::new(),
            more: Vec::new(),
            environment: Vec::new(),
            logs: site.folder().to_owned(),
        };
        launch = launch
            .set("--manifests", site.manifests().folder())
            .set("--data-dir", site.data_dir())
            .set("--listen-http", "127.0.0.1:0")
            .set("--listen-grpc", "127.0.0.1:0")
            .set("--listen-admin", "127.0.0.1:0")
            .set("--drain-timeout", "10s")
            .add("--file-root", site.files())
            .add("--file-root", digits::folder())
            .add("--allow-upstream", "127.0.0.0/8");
        match onnxruntime() {
            Some(library) => launch.set("--onnxruntime", library),
            None => launch,
        }
    }

    /// With this value for a flag.
    #[must_use]
    pub fn set(mut self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        self.flags.insert(flag.to_owned(), value.as_ref().to_owned());
        self
    }

    /// With this value for a flag, beside others.
    #[must_use]
    pub fn add(mut self, flag: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.more.extend([flag.into(), value.as_ref().to_owned()]);
        self
    }

    /// Following a cluster's InferenceNode and no manifests.
    #[must_use]
    pub fn in_cluster(mut self, kubeconfig: &Path) -> Self {
        self.flags.remove("--manifests");
        self.env("KUBECONFIG", kubeconfig)
    }

    /// With a flag that has no value.
    #[must_use]
    pub fn switch(mut self, flag: &'static str) -> Self {
        self.more.push(flag.into());
        self
    }

    /// As a node of another tier: `edge`, `cloud`.
    #[must_use]
    pub fn tier(self, tier: &str) -> Self {
        self.set("--tier", tier)
    }

    /// With an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts it; returns as soon as its ports are bound.
    pub async fn start(&self) -> Result<Agent> {
        let mut agent = self.spawn()?;
        let (child, log) = (&mut agent.child, &agent.log);
        let bound = wait::until("the agent to bind its ports", || {
            let (addresses, ended) = (bound_addresses(&read(log)), child.try_wait());
            async move {
                match (addresses, ended?) {
                    (Some(addresses), _) => Ok(Ok(addresses)),
                    (None, Some(status)) => Ok(Err(status)),
                    (None, None) => bail!("it says nothing of them"),
                }
            }
        });
        match bound.await? {
            Ok([http, grpc, admin]) => (agent.http, agent.grpc, agent.admin) = (http, grpc, admin),
            Err(status) => bail!("the agent ended with {status} while it started; the log:\n{}", agent.log()),
        }
        Ok(agent)
    }

    /// Starts it, and waits until it is ready.
    pub async fn ready(&self) -> Result<Agent> {
        let agent = self.start().await?;
        agent.wait_ready().await?;
        Ok(agent)
    }

    /// Starts it, and waits until it ends by itself.
    pub async fn run(&self) -> Result<Exit> {
        self.spawn()?.wait_exit(wait::LIMIT).await
    }

    /// Starts it and waits for nothing; its addresses are what the flags say.
    pub fn spawn(&self) -> Result<Agent> {
        let (file, log) = tempfile::Builder::new().suffix(".log").tempfile_in(&self.logs)?.keep()?;
        let program = program()?;
        let mut command = Command::new(&program);
        for (name, _) in std::env::vars_os() {
            // Settings of whoever runs the tests are none of this agent's.
            let name_text = name.to_string_lossy();
            if name_text.starts_with("TERRACE_") || name_text.starts_with("KUBE") {
                command.env_remove(name);
            }
        }
        for (flag, value) in &self.flags {
            command.arg(flag).arg(value);
        }
        command.args(&self.more).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let address = |flag| {
            let text = self.flags.get(flag).and_then(|address| address.to_str());
            text.and_then(|text| text.parse().ok()).context("no address")
        };
        Ok(Agent {
            child,
            log,
            http: address("--listen-http")?,
            grpc: address("--listen-grpc")?,
            admin: address("--listen-admin")?,
        })
    }
}

impl Agent {
    /// Waits until it is ready for traffic.
    pub async fn wait_ready(&self) -> Result<()> {
        wait::until("the agent to be ready", || async {
            let reply = self.admin("/readyz").await?;
            ensure!(reply.status == 200, "{} {}the log:\n{}", reply.status, reply.text(), self.log());
            Ok(())
        })
        .await
    }

    /// A connection to the data port.
    pub async fn connect(&self) -> Result<Connection> {
        Connection::open(self.http).await
    }

    /// One request to the data port.
    pub async fn send(&self, request: &Request) -> Result<Reply> {
        http::send(self.http, request).await
    }

    /// One inference request.
    pub async fn infer(&self, ask: &Ask) -> Result<Reply> {
        self.send(&ask.request()).await
    }

    /// `GET path` of the data port.
    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.send(&Request::get(path)).await
    }

    /// `GET path` of the admin port.
    pub async fn admin(&self, path: &str) -> Result<Reply> {
        http::send(self.admin, &Request::get(path)).await
    }

    /// One request to the admin port.
    pub async fn ask_admin(&self, request: &Request) -> Result<Reply> {
        http::send(self.admin, request).await
    }

    /// What it reports.
    pub async fn status(&self) -> Result<InferenceNodeStatus> {
        Ok(serde_json::from_slice(&self.admin("/status").await?.body)?)
    }

    /// What it reports of one model in the default namespace.
    pub async fn model(&self, name: &str) -> Result<NodeModelStatus> {
        let models = self.status().await?.models;
        models
            .into_iter()
            .find(|model| model.name == name)
            .with_context(|| format!("no model {name} in the status"))
    }

    /// Waits until it reports that a model serves the artifact with this digest.
    pub async fn wait_serving(&self, name: &str, sha256: &str) -> Result<NodeModelStatus> {
        wait::until("the model to serve", || async {
            let model = self.model(name).await?;
            let serves =
                model.phase == ModelPhase::Serving && model.serving_sha256.as_deref() == Some(sha256);
            ensure!(serves, "{model:?}");
            Ok(model)
        })
        .await
    }

    /// Waits until it reports that a model's desired revision cannot serve, for this reason.
    pub async fn wait_failed(&self, name: &str, reason: &str) -> Result<NodeModelStatus> {
        wait::until("the model to fail", || async {
            let model = self.model(name).await?;
            let told = model.error.as_ref().map(|error| error.reason.as_str());
            ensure!(model.phase == ModelPhase::Failed && told == Some(reason), "{model:?}");
            Ok(model)
        })
        .await
    }

    /// Waits until a condition has this status and its message holds `text`.
    pub async fn wait_condition(&self, kind: &str, status: &str, text: &str) -> Result<()> {
        wait::until("the condition to turn", || async {
            let conditions = self.status().await?.conditions;
            let holds = conditions.iter().any(|condition| {
                condition.type_ == kind && condition.status == status && condition.message.contains(text)
            });
            ensure!(holds, "{conditions:?}");
            Ok(())
        })
        .await
    }

    /// The sum of a counter over all series whose labels hold every one of `labels`, such as `code="200"`.
    pub async fn counted(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let text = self.admin("/metrics").await?.text();
        let series = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        series.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<f64>()?)).sum()
    }

    /// Everything it wrote so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Waits until the log holds `text`.
    pub async fn wait_log(&self, text: &str) -> Result<()> {
        wait::until("a line in the log", || async {
            ensure!(self.log().contains(text), "no {text:?} in\n{}", self.log());
            Ok(())
        })
        .await
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it ever had resident, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        self.told_by_the_system("VmHWM:")
    }

    /// The memory that it has resident, in bytes.
    pub fn memory(&self) -> Result<u64> {
        self.told_by_the_system("VmRSS:")
    }

    fn told_by_the_system(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes = line.with_context(|| format!("no {name}"))?.trim().trim_end_matches(" kB");
        Ok(kibibytes.parse::<u64>()? << 10)
    }

    /// Kills it on the spot.
    pub fn kill9(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("no pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until it has ended.
    pub async fn wait_exit(mut self, limit: Duration) -> Result<Exit> {
        let child = &mut self.child;
        let status = wait::until_within("the agent to end", limit, || {
            let ended = child.try_wait();
            async move { ended?.context("it still runs") }
        })
        .await
        .with_context(|| format!("the log:\n{}", read(&self.log)))?;
        Ok(Exit { status, log: read(&self.log) })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(log: &Path) -> String {
    String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
}

/// The ports in the line `agent starting tier=device http=127.0.0.1:1 admin=127.0.0.1:2 …`.
fn bound_addresses(log: &str) -> Option<[SocketAddr; 3]> {
    let line = log.lines().find(|line| line.contains("agent starting") && line.contains(" runtime="))?;
    let address = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)?.parse().ok());
    Some([address("http=")?, address("grpc=")?, address("admin=")?])
}

/// The agent's executable, unless `TERRACE_AGENT_BIN` names another.
fn program() -> Result<PathBuf> {
    setting("TERRACE_AGENT_BIN").map_or_else(|| executable("terrace-agent"), Ok)
}

/// One of the workspace's executables, beside the folder of the tests'.
pub fn executable(name: &str) -> Result<PathBuf> {
    let mut folder = std::env::current_exe()?;
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let program = folder.join(name);
    ensure!(program.is_file(), "there is no {}: run `make test`, which builds it", program.display());
    Ok(program)
}

/// ONNX Runtime's library: what `TERRACE_ONNXRUNTIME` names, else what `make setup` put into the checkout.
pub fn onnxruntime() -> Option<PathBuf> {
    setting("TERRACE_ONNXRUNTIME").or_else(|| {
        let versions = fs::read_dir(checkout().join(".tools/onnxruntime")).ok()?;
        let libraries = versions.filter_map(|version| Some(version.ok()?.path().join("libonnxruntime.so")));
        libraries.filter(|library| library.exists()).max()
    })
}

/// ONNX Runtime's library with OpenVINO's execution provider, which `make test` puts into the checkout.
pub fn onnxruntime_openvino() -> Result<PathBuf> {
    let folder = checkout().join(".tools/onnxruntime-openvino");
    let versions = fs::read_dir(&folder).into_iter().flatten();
    let libraries = versions.filter_map(|version| Some(version.ok()?.path().join("libonnxruntime.so")));
    let library = libraries.filter(|library| library.exists()).max();
    library
        .with_context(|| format!("{} holds no library: run `tools/onnxruntime openvino`", folder.display()))
}

#[allow(clippy::disallowed_methods)] // tests have no flags of their own
fn setting(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
