//! The agent of one node: reads its arguments, wires the parts together, and ends them in order.

mod activity;
mod admin;
mod allowed;
mod answer;
mod args;
mod callers;
mod cluster;
mod conversation;
mod crashes;
mod decoding;
mod describe;
mod executor;
mod explained;
mod facts;
mod fetch;
mod gathering;
mod grpc;
mod heavy;
mod leftovers;
mod listen;
mod manifests;
mod message;
mod metrics;
mod node;
mod pieces;
mod record;
mod refusal;
mod registry;
mod requirements;
mod rest;
mod room;
mod seen;
mod serve;
mod standalone;
mod status;
mod store;
mod streams;
mod sync;
mod tools;
mod unpacking;
mod upstream;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use terrace_crds::node::AgentStatus;
use terrace_engine::Engine as _;
use terrace_engine::onnxruntime::OnnxRuntime;
use terrace_engine::probe::{self, Prober};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use crate::admin::Admin;
use crate::args::Args;
use crate::callers::{Callers, Door, Port};
use crate::cluster::Cluster;
use crate::crashes::Crashes;
use crate::fetch::{FetchOptions, Fetcher};
use crate::listen::{Limits, Served};
use crate::node::{Node, Parts};
use crate::record::Recorder;
use crate::rest::body;
use crate::room::Room;
use crate::standalone::Standalone;
use crate::status::Board;
use crate::store::Store;
use crate::store::lock::DataLock;
use crate::sync::activate::Activator;
use crate::sync::journal::NodeJournal;
use crate::sync::{Instruction, Sync};
use crate::upstream::Upstream;
use terrace_egress::Egress;

/// Ports that are drained at the end.
const PORTS: usize = 3;
/// The most threads that speak to clients and tiers.
const IO_THREADS: usize = 4;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == probe::SUBCOMMAND) {
        return probe::child_main();
    }
    let args = Args::read();
    if let Some(tool) = &args.tool {
        return tools::run(tool);
    }
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("terrace-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    terrace_heap::keep_little();
    let log = terrace_telemetry::init(&args.log, args.log_format)?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(io_threads())
        .thread_name("io")
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let ended = runtime.block_on(agent(args, log));
    // A load that hangs in native code must not keep a process that is done.
    runtime.shutdown_background();
    ended
}

/// How many threads speak to clients and tiers. Models run on threads of their own, and need the other cores.
fn io_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, IO_THREADS)
}

/// As many files and connections as the system permits: what a shell gives is a quarter of --max-connections.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        debug!(%error, "the limit of open files stays as it is");
    }
}

async fn agent(args: Args, log: terrace_telemetry::LogFilter) -> anyhow::Result<()> {
    let data_port = listen::bind(args.listen_http, "--listen-http").await?;
    let grpc_port = listen::bind(args.listen_grpc, "--listen-grpc").await?;
    let admin_port = listen::bind(args.listen_admin, "--listen-admin").await?;
    let callers = Arc::new(Callers::open(&args.callers)?);
    let cluster = match args.manifests {
        Some(_) => None,
        None => Some(cluster::config().await?),
    };
    let egress = args.allowed.egress(cluster.as_ref().and_then(api_server));
    let parts = wire(&args, &egress)?;
    info!(
        tier = %args.tier, http = %data_port.local_addr()?, grpc = %grpc_port.local_addr()?, admin = %admin_port.local_addr()?,
        data_dir = %args.data_dir.display(), runtime = parts.runtime, "agent starting"
    );

    info!(tls = callers.has_tls(), everybody = callers.is_open(), "who may call the data ports");
    if args.callers.tokens_are_seen(&args.data_ports()) {
        warn!(
            "tokens cross the network unencrypted: give --tls-cert and --tls-key, or have a proxy on this machine encrypt them"
        );
    }
    let (end, ending) = watch::channel(false);
    let limits = Limits { connections: args.max_connections, drain: args.drain_timeout };
    let mut tasks = JoinSet::new();
    let node = Arc::clone(&parts.node);
    let door = |port| Some(Arc::new(Door::new(port, Arc::clone(&callers), Arc::clone(&node))));
    let served = Served { app: rest::Port::new(Arc::clone(&node)), door: door(Port::Http), limits };
    tasks.spawn(named("the data port", listen::serve(data_port, served, ending.clone())));
    let served = Served { app: grpc::Port::new(Arc::clone(&node)), door: door(Port::Grpc), limits };
    tasks.spawn(named("the gRPC port", listen::serve(grpc_port, served, ending.clone())));
    let app = admin::router(Admin { node: Arc::clone(&node), log });
    let served = Served { app, door: None, limits };
    tasks.spawn(named("the admin port", listen::serve(admin_port, served, ending)));
    let followed = (Arc::clone(&callers), Arc::clone(&node));
    tasks.spawn(async move {
        followed.0.follow(&followed.1.board).await;
        Ok(())
    });
    tasks.spawn(async move {
        egress.follow_api_server().await;
        Ok(())
    });
    let room = node.body_limits().room;
    tasks.spawn(async move {
        leftovers::give_back(room, leftovers::release).await;
        Ok(())
    });
    let upstream = Arc::clone(&node);
    tasks.spawn(named("the credentials", async move { upstream.upstream.follow_credentials().await }));
    tasks.spawn(named("the sync", follow(args.clone(), parts, cluster)));

    tokio::select! {
        ended = tasks.join_next() => return early(ended),
        () = terminated()? => {}
    }
    info!(delay = ?args.shutdown_delay, drain_timeout = ?args.drain_timeout, "shutting down");
    node.begin_shutdown();
    tokio::time::sleep(args.shutdown_delay).await;
    end.send_replace(true);
    drain(tasks, PORTS).await;
    info!("agent ended");
    Ok(())
}

/// The host of the API server that a configuration leads to.
fn api_server(cluster: &kube::Config) -> Option<&str> {
    cluster.cluster_url.host()
}

/// The parts of an agent, before anything runs.
struct Wired {
    node: Arc<Node>,
    activator: Arc<Activator>,
    journal: Arc<NodeJournal>,
    runtime: String,
}

fn wire(args: &Args, egress: &Egress) -> anyhow::Result<Wired> {
    let engine = OnnxRuntime::open(&args.onnxruntime)?;
    let runtime = engine.runtime().to_string();
    let store = Arc::new(Store::open(&args.data_dir)?);
    let journal = Arc::new(NodeJournal::open(args.data_dir.join("journal/node.json"))?);
    let prober = Prober {
        program: std::env::current_exe()
            .context("cannot find the agent's own executable, which probes models")?,
        library: engine.library().to_owned(),
        runtime: runtime.clone(),
        verdicts: args.data_dir.join("verdicts"),
        limits: probe::Limits::default(),
    };
    let fetcher = Arc::new(Fetcher::new(FetchOptions {
        store: Arc::clone(&store),
        egress: egress.clone(),
        file_roots: args.allowed.file_roots.clone(),
        allow_http: args.allowed.allows_http(),
        max_bytes: args.max_model_bytes,
    })?);
    let recorder = args.record_decisions.clone().map(|file| {
        Recorder::start(record::Settings { file: file.clone(), max_bytes: args.record_max_bytes })
            .with_context(|| format!("--record-decisions: {} cannot be written", file.display()))
    });
    let limits = body::Limits { bytes: args.max_body_bytes, room: Room::new(args.max_held_bytes) };
    let node = Arc::new(Node::new(Parts {
        recorder: recorder.transpose()?,
        tier: args.tier,
        default_namespace: args.default_namespace.clone(),
        upstream: Upstream::new(egress, args.credentials_dir.clone(), limits.clone()),
        body: limits,
        board: Board::new(AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime: runtime.clone(),
            execution_providers: engine.providers().into_iter().map(str::to_owned).collect(),
        }),
    }));
    let activator = Arc::new(Activator {
        store,
        fetcher,
        engine: Arc::new(engine),
        prober,
        crashes: Crashes::open(&args.data_dir.join("crashes"), SystemTime::now()),
        queue: args.queue,
        loading: Arc::new(Semaphore::new(1)),
    });
    Ok(Wired { node, activator, journal, runtime })
}

/// Serves from disk at once; follows the manifests as soon as the data directory is this process's alone.
async fn follow(args: Args, wired: Wired, cluster: Option<kube::Config>) -> anyhow::Result<()> {
    let data_dir = args.data_dir.clone();
    let held = DataLock::try_acquire(&data_dir)?;
    let sync = Sync::new(Arc::clone(&wired.node), Arc::clone(&wired.activator), Arc::clone(&wired.journal));
    sync.boot().await;
    let _lock = if let Some(lock) = held {
        lock
    } else {
        info!(data_dir = %data_dir.display(), "another agent owns the data directory; serving what it last served until it ends");
        let lock = tokio::task::spawn_blocking(move || DataLock::acquire_blocking(&data_dir)).await??;
        info!("the data directory is this agent's now");
        wired.journal.reread()?;
        sync.boot().await;
        lock
    };
    wired.journal.tidy()?;
    let (instructions, instructed) = watch::channel(None);
    let following = sync.run(instructed);
    if let Some(cluster) = cluster {
        // Until the cluster is heard, what it said last: what could not be served then is tried again.
        instructions.send_replace(
            wired.journal.state().spec.map(|spec| Arc::new(Instruction { spec, generation: None })),
        );
        let cluster = Cluster::connect(cluster, args.node_name.as_deref(), Arc::clone(&wired.node))?;
        tokio::join!(cluster.run(instructions), following);
    } else if let Some(manifests) = &args.manifests {
        let standalone = Standalone::open(
            &args,
            manifests,
            Arc::clone(&wired.node),
            Arc::clone(&wired.activator.fetcher),
            wired.journal.state().spec,
        )?;
        tokio::join!(standalone.run(instructions), following);
    }
    Ok(())
}

/// Resolves when this process is told to end.
fn terminated() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// A task with the name that its early end is reported under.
async fn named<E>(name: &'static str, task: impl Future<Output = Result<(), E>>) -> anyhow::Result<()>
where
    anyhow::Error: From<E>,
{
    task.await.map_err(anyhow::Error::from).with_context(|| format!("{name} failed"))
}

/// What an end that nobody asked for means: the process ends, and whatever started it starts it again.
fn early(ended: Option<Result<anyhow::Result<()>, tokio::task::JoinError>>) -> anyhow::Result<()> {
    match ended {
        Some(Ok(Ok(()))) | None => anyhow::bail!("a part of the agent ended early"),
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) => Err(error).context("a part of the agent ended early"),
    }
}

/// Waits for the ports to finish what is in flight; then nothing else has to go on.
async fn drain(mut tasks: JoinSet<anyhow::Result<()>>, ports: usize) {
    for _ in 0..ports {
        if let Some(Ok(Err(error))) = tasks.join_next().await {
            error!(error = format!("{error:#}"), "a port did not end cleanly");
        }
    }
    tasks.abort_all();
}
