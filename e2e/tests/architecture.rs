//! Who may know whom. The code decides it every day anew; these tests hold it to the design.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use terrace_e2e::checkout;

/// The dependency graph of the workspace on Linux with every feature, normal dependencies only.
struct Graph {
    names: BTreeMap<String, String>,
    edges: BTreeMap<String, Vec<String>>,
    members: BTreeSet<String>,
}

impl Graph {
    fn read() -> Result<Self> {
        // For this target alone: what only others need is not on disk, and this must run offline.
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let output = Command::new(env!("CARGO"))
            .args([
                "metadata",
                "--format-version=1",
                "--offline",
                "--locked",
                "--all-features",
                "--filter-platform",
                &target,
            ])
            .current_dir(checkout())
            .output()?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
        let list = |value: &Value| value.as_array().cloned().context("no list");
        let mut graph = Self { names: BTreeMap::new(), edges: BTreeMap::new(), members: BTreeSet::new() };
        for package in list(&metadata["packages"])? {
            graph.names.insert(text(&package["id"])?, text(&package["name"])?);
        }
        for node in list(&metadata["resolve"]["nodes"])? {
            let mut needed = Vec::new();
            for dependency in list(&node["deps"])? {
                if list(&dependency["dep_kinds"])?.iter().any(|kind| kind["kind"].is_null()) {
                    needed.push(text(&dependency["pkg"])?);
                }
            }
            graph.edges.insert(text(&node["id"])?, needed);
        }
        for member in list(&metadata["workspace_members"])? {
            graph.members.insert(graph.names[&text(&member)?].clone());
        }
        Ok(graph)
    }

    fn id(&self, crate_name: &str) -> Result<&String> {
        let mut ids = self.names.iter().filter(|(_, name)| *name == crate_name).map(|(id, _)| id);
        ids.next().with_context(|| format!("there is no crate {crate_name}"))
    }

    /// Everything that a crate needs, directly or not, with the way to it.
    fn reach(&self, crate_name: &str) -> Result<BTreeMap<&str, String>> {
        let start = self.id(crate_name)?;
        let mut reached = BTreeMap::new();
        let mut open = vec![(start, crate_name.to_owned())];
        while let Some((id, way)) = open.pop() {
            for needed in self.edges.get(id).into_iter().flatten() {
                let name = self.names[needed].as_str();
                if !reached.contains_key(name) {
                    let way = format!("{way} → {name}");
                    reached.insert(name, way.clone());
                    open.push((needed, way));
                }
            }
        }
        Ok(reached)
    }

    fn assert_never(&self, crate_name: &str, forbidden: &[&str]) -> Result<()> {
        let reached = self.reach(crate_name)?;
        let ways: Vec<&String> = forbidden.iter().filter_map(|name| reached.get(name)).collect();
        assert!(ways.is_empty(), "{crate_name} must not reach these: {ways:?}");
        Ok(())
    }
}

#[test]
fn what_decides_knows_no_runtime_no_client_and_no_engine() -> Result<()> {
    const WORLD: &[&str] = &[
        "tokio",
        "kube-client",
        "kube-runtime",
        "axum",
        "hyper",
        "reqwest",
        "tower",
        "ort",
        "ort-sys",
        "notify",
        "rustix",
        "terrace-agent",
        "terrace-engine",
        "terrace-telemetry",
        "tracing-subscriber",
    ];
    let graph = Graph::read()?;
    for pure in ["terrace-tiering", "terrace-fleet", "terrace-crds", "terrace-oip", "terrace-coding"] {
        let needed = alone(pure)?;
        ensure!(needed.contains(pure), "{needed:?}");
        let reached: Vec<&&str> = WORLD.iter().filter(|name| needed.contains(**name)).collect();
        assert!(
            reached.is_empty(),
            "{pure} must not reach {reached:?}: `cargo tree -p {pure} -e normal -i NAME` says how"
        );
    }
    for (lower, upper) in [
        ("terrace-crds", &["terrace-tiering", "terrace-fleet", "terrace-oip"][..]),
        ("terrace-tiering", &["terrace-fleet", "terrace-oip"]),
        ("terrace-fleet", &["terrace-oip"]),
        ("terrace-oip", &["terrace-crds", "terrace-tiering", "terrace-fleet"]),
        ("terrace-engine", &["axum", "reqwest", "hyper", "kube-client", "terrace-fleet", "terrace-tiering"]),
    ] {
        graph.assert_never(lower, upper)?;
    }
    Ok(())
}

#[test]
fn agent_and_operator_do_not_know_each_other_and_only_they_write_logs() -> Result<()> {
    const BINARIES: [&str; 2] = ["terrace-agent", "terrace-operator"];
    let graph = Graph::read()?;
    for (binary, other) in [("terrace-agent", "terrace-operator"), ("terrace-operator", "terrace-agent")] {
        if graph.members.contains(binary) {
            graph.assert_never(binary, &[other])?;
        }
    }
    for member in graph.members.iter().filter(|member| !BINARIES.contains(&member.as_str())) {
        graph.assert_never(member, &["terrace-telemetry"])?;
    }
    Ok(())
}

#[test]
fn tests_know_an_agent_only_from_outside() -> Result<()> {
    let reached = Graph::read()?;
    let reached = reached.reach("terrace-e2e")?;
    let ours: Vec<&&str> = reached.keys().filter(|name| name.starts_with("terrace-")).collect();
    assert_eq!(ours, [&"terrace-crds"]);
    Ok(())
}

/// What a crate needs when nothing else is built with it: features that others ask for are not its own.
fn alone(crate_name: &str) -> Result<BTreeSet<String>> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--edges=normal", "--prefix=none", "--format={p}"])
        .args(["--target", &target, "--package", crate_name])
        .current_dir(checkout())
        .output()?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout)?;
    Ok(names.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

/// Rust files below `folder` of the checkout.
fn sources(folder: &str) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    let mut folders = vec![checkout().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|suffix| suffix == "rs") {
                found.push((path.clone(), fs::read_to_string(path)?));
            }
        }
    }
    ensure!(!found.is_empty(), "no sources in {folder}");
    Ok(found)
}

/// Whether code holds a word that is not the end of a longer one.
fn holds(code: &str, word: &str) -> bool {
    let is_part = |before: char| before.is_alphanumeric() || before == '_';
    code.match_indices(word).any(|(at, _)| !code[..at].ends_with(is_part))
}

/// The lines of `folder` that are code and hold one of `forbidden`.
fn offences(folder: &str, forbidden: &[&str]) -> Result<Vec<String>> {
    let mut offences = Vec::new();
    for (path, text) in sources(folder)? {
        let path = path.strip_prefix(checkout()).map_or(path.as_path(), Path::new).to_owned();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(word) = forbidden.iter().find(|word| holds(code, word)) {
                offences.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    Ok(offences)
}

#[test]
fn what_decides_reads_no_clock_no_environment_and_no_files() -> Result<()> {
    const IMPURE: &[&str] = &[
        "std::env",
        "std::fs",
        "std::net",
        "std::process",
        "std::thread",
        "SystemTime::now",
        "Instant::now",
        "Timestamp::now",
        "Zoned::now",
        "println!",
        "static mut",
    ];
    for folder in ["tiering/src", "fleet/src", "crds/src", "agent/oip/src", "agent/coding/src"] {
        assert_eq!(offences(folder, IMPURE)?, Vec::<String>::new());
    }
    Ok(())
}

#[test]
fn the_agent_touches_onnx_runtime_through_its_engine_alone() -> Result<()> {
    assert_eq!(offences("agent/src", &["ort::", "use ort", "ort_sys"])?, Vec::<String>::new());
    let manifest = fs::read_to_string(checkout().join("agent/Cargo.toml"))?;
    let names = manifest.lines().filter_map(|line| line.split_once('='));
    let direct: Vec<&str> =
        names.map(|(name, _)| name.trim()).filter(|name| name.starts_with("ort")).collect();
    assert_eq!(direct, Vec::<&str>::new());
    Ok(())
}
