//! The operator: reads its arguments, wires the parts together, and ends them in order.

mod admin;
mod args;
mod catalog;
mod checksums;
mod conditions;
mod context;
mod controller;
mod edge;
mod keys;
mod leader;
mod metrics;
mod model;
mod node;
mod policy;
mod queues;
mod revisions;
mod world;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::info;

use crate::admin::Health;
use crate::args::Args;
use crate::checksums::Checksums;
use crate::context::Context;
use crate::controller::Controller;
use crate::metrics::Metrics;
use crate::world::World;

fn main() -> ExitCode {
    let args = Args::read();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("terrace-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    terrace_telemetry::init(&args.log, args.log_format)?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(operator(args))
}

async fn operator(args: Args) -> anyhow::Result<()> {
    let port = admin::bind(args.listen_admin).await?;
    let config = config().await?;
    let egress = args.reach.egress(config.cluster_url.host());
    let client = Client::try_from(config).context("cannot talk to the cluster")?;
    let metrics = Arc::new(Metrics::default());
    let health = Arc::new(Health::default());
    info!(
        version = env!("CARGO_PKG_VERSION"), admin = %port.local_addr()?, identity = args.identity,
        "operator starting"
    );
    let mut tasks = JoinSet::new();
    tasks.spawn(admin::serve(port, Arc::clone(&health), Arc::clone(&metrics)));

    // The world is watched before the lease is held, so that a standby that takes over knows it already.
    let (queues, triggers) = queues::queues();
    let (world, watches) = World::watch(&client, &args, queues.clone());
    tasks.spawn(watches);
    let (lease, lost) = leader::Leader::new(client.clone(), &args, Arc::clone(&metrics));
    tasks.spawn(async move { lease.run().await });

    let end = terminated()?;
    tokio::pin!(end);
    tokio::select! {
        ended = tasks.join_next() => return early(ended),
        () = &mut end => return Ok(()),
        synced = world.ready() => synced?,
    }
    health.synced();
    tokio::select! {
        ended = tasks.join_next() => return early(ended),
        () = &mut end => return Ok(()),
        () = lost.acquired() => {}
    }
    health.leads();

    let reporter = Reporter { controller: "terrace-operator".into(), instance: Some(args.identity.clone()) };
    let checksums = Checksums::new(egress.clone(), args.reach.allow_http_sources)?;
    let context = Arc::new(Context::new(
        client.clone(),
        world,
        Recorder::new(client, reporter),
        Arc::clone(&metrics),
        checksums,
    ));
    let (stop, _) = tokio::sync::broadcast::channel::<()>(1);
    let mut controllers = JoinSet::new();
    let world = context.world.clone();
    let models = Controller {
        name: "model",
        store: world.models,
        triggers: triggers.models,
        stop: stop.subscribe(),
        concurrency: 8,
    };
    let looked = queues.clone();
    controllers.spawn(
        models.run(Arc::clone(&context), move |object, context| model::look(object, context, looked.clone())),
    );
    let policies = Controller {
        name: "policy",
        store: world.policies,
        triggers: triggers.policies,
        stop: stop.subscribe(),
        concurrency: 4,
    };
    controllers.spawn(policies.run(Arc::clone(&context), policy::look));
    let nodes = Controller {
        name: "node",
        store: world.nodes,
        triggers: triggers.nodes,
        stop: stop.subscribe(),
        concurrency: 16,
    };
    controllers.spawn(nodes.run(Arc::clone(&context), node::look));
    tasks.spawn(async move {
        egress.follow_api_server().await;
        Ok(())
    });
    tasks.spawn(keys::publish(Arc::clone(&context), args.agent_namespace.clone()));
    tasks.spawn(queues.clone().crowd(context.world.clone()));
    tasks.spawn(queues.clone().settled(context.world.clone()));
    queues.everything(&context.world);

    tokio::select! {
        ended = tasks.join_next() => return early(ended),
        ended = controllers.join_next() => return early(ended.map(|ended| ended.map(Ok))),
        () = &mut end => {}
    }
    info!("shutting down: what is being written is finished, nothing new begins");
    drop(stop);
    let _finished = tokio::time::timeout(args.shutdown_timeout, controllers.join_all()).await;
    lost.release().await;
    info!("operator ended");
    Ok(())
}

/// The way to the cluster that this process is in, or that KUBECONFIG names.
async fn config() -> anyhow::Result<kube::Config> {
    // Its own text has every cause already.
    kube::Config::infer().await.map_err(|error| {
        anyhow::anyhow!(
            "no cluster to talk to: run in a pod with a ServiceAccount, or name a kubeconfig with KUBECONFIG: {error}"
        )
    })
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

/// What an end that nobody asked for means: the process ends, and whatever started it starts it again.
fn early(ended: Option<Result<anyhow::Result<()>, tokio::task::JoinError>>) -> anyhow::Result<()> {
    match ended {
        Some(Ok(Ok(()))) | None => anyhow::bail!("a part of the operator ended early"),
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) => Err(error).context("a part of the operator ended early"),
    }
}
