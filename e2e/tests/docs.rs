//! What the pages say is so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use terrace_e2e::agent::onnxruntime;
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::site::Site;
use terrace_e2e::{checkout, digits, upstreams, wait};

/// Type, unit and labels of a metric.
type Metric = (String, String, BTreeSet<String>);

/// The table of metrics in the page, by name.
fn documented() -> Result<BTreeMap<String, Metric>> {
    let page = fs::read_to_string(checkout().join("docs/standalone.md"))?;
    let rows = page.lines().filter(|line| line.starts_with("| `terrace_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, kind, unit, labels, ..] = cells[..] else { bail!("no row of metrics: {row}") };
        let labels = labels
            .split(", ")
            .filter(|label| !label.is_empty())
            .map(|label| label.trim_matches('`').to_owned())
            .collect();
        Ok((name.trim_matches('`').to_owned(), (kind.to_owned(), unit.to_owned(), labels)))
    })
    .collect()
}

/// What an agent shows, by name.
fn shown(text: &str) -> Result<BTreeMap<String, Metric>> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["#", "TYPE", name, kind] => metrics.entry(name.to_owned()).or_default().0 = kind.to_owned(),
            ["#", "UNIT", name, unit] => metrics.entry(name.to_owned()).or_default().1 = unit.to_owned(),
            ["#", ..] => {}
            _ => {
                let (series, labels) = line.split_once('{').unwrap_or((line, "}"));
                let labels = labels.split_once('}').context("no end of labels")?.0;
                let (_, metric) = metrics
                    .iter_mut()
                    .rfind(|(name, _)| series.starts_with(name.as_str()))
                    .context("no type")?;
                let names = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
                metric.2.extend(names.filter(|name| name != "le"));
            }
        }
    }
    Ok(metrics)
}

#[tokio::test]
async fn the_table_of_metrics_is_what_an_agent_shows() -> Result<()> {
    const TOKEN: &str = "0123456789abcdef";
    let cloud = upstreams::answering().await?;
    let confidence = "{output: probabilities, method: Probability}";
    let site = Site::new()?;
    // Its rule fails, and is counted.
    let rules = "rules: [{when: request.batch / 0 == 1, tier: Device}, {when: request.complexity > 0.8, tier: Cloud}]";
    site.manifests()
        .policy(&Policy::named("near").cloud(&cloud.url()).having("hedge: {after: 2s}").with(rules))?;
    site.manifests().model(&Model::digits("digits-device")?.policy("near"))?;
    // Its mode measures how sure the model is; nobody needs to be asked.
    let sure =
        Policy::named("sure").cloud("http://127.0.0.1:9").speculative("{verifier: Cloud, threshold: 0}");
    site.manifests().policy(&sure)?;
    site.manifests()
        .model(&Model::digits("digits-edge")?.named("digits-edge").confidence(confidence).policy("sure"))?;
    let tokens = site.folder().join("tokens");
    fs::write(&tokens, format!("default {TOKEN}"))?;
    let agent = site.agent().set("--caller-tokens", tokens).ready().await?;
    let bearer = format!("Bearer {TOKEN}");
    for ask in [Ask::image(&digits::test_set().images[0]).private(), Ask::image(&[7.0; 64]).complexity(0.9)] {
        agent.infer(&ask.header("authorization", &bearer)).await?.answered()?;
    }
    let ask = Ask::image(&digits::test_set().images[0]).model("digits-edge");
    ensure!(agent.infer(&ask).await?.status == 401);
    agent.infer(&ask.header("authorization", &bearer)).await?.answered()?;
    assert_eq!(documented()?, shown(&agent.admin("/metrics").await?.text())?);
    Ok(())
}

/// Every word such as `DigestMismatch` that stands in quotes in these files of the agent, its tests left out.
fn words(paths: &[&str]) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut paths: Vec<PathBuf> = paths.iter().map(|path| checkout().join("agent").join(path)).collect();
    while let Some(path) = paths.pop() {
        if path.ends_with("tests") || path.ends_with("tests.rs") {
            continue;
        }
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                paths.push(entry?.path());
            }
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
        let code = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
        let quoted = code
            .filter(|line| !line.contains("debug_struct"))
            .flat_map(|line| line.split('"').skip(1).step_by(2));
        found.extend(quoted.filter(|text| is_word(text)).map(str::to_owned));
    }
    Ok(found)
}

/// Two or more capitals, none beside another, and small letters.
fn is_word(text: &str) -> bool {
    let capitals = text.bytes().filter(u8::is_ascii_uppercase).count();
    text.bytes().all(|byte| byte.is_ascii_alphabetic())
        && text.starts_with(|first: char| first.is_ascii_uppercase())
        && capitals > 1
        && !text.as_bytes().windows(2).any(|two| two.iter().all(u8::is_ascii_uppercase))
}

#[test]
fn the_runbook_has_every_reason_and_outcome() -> Result<()> {
    let page = fs::read_to_string(checkout().join("docs/standalone.md"))?;
    let words = words(&[
        "src/sync",
        "src/standalone",
        "src/fetch",
        "src/executor",
        "src/upstream",
        "src/callers",
        "src/listen.rs",
        "engine/src",
    ])?;
    for known in ["DigestMismatch", "ProbeRefused", "LoadFailed", "DigestUnknown", "ConnectFailed"] {
        assert!(words.contains(known), "{known} is not found any more: {words:?}");
    }
    let missing: Vec<&String> = words.iter().filter(|word| !page.contains(&format!("`{word}`"))).collect();
    assert!(missing.is_empty(), "docs/standalone.md says nothing of {missing:?}");
    Ok(())
}

#[test]
fn the_table_of_reasons_has_every_reason() -> Result<()> {
    let code = fs::read_to_string(checkout().join("tiering/src/decide.rs"))?;
    let named = code.split("const fn fixed(").nth(1).and_then(|code| code.split("\n    }\n").next());
    let arms = named.context("no names of reasons")?.lines().filter_map(|line| line.split_once(" => \""));
    let reasons: BTreeSet<&str> = arms
        .filter(|(reason, _)| !reason.contains("Rule(_)"))
        .filter_map(|(_, name)| name.strip_suffix("\","))
        .collect();
    assert!(reasons.contains("PrivacyRequired") && reasons.len() > 20, "{reasons:?}");
    let page = fs::read_to_string(checkout().join("docs/policies.md"))?;
    let section = page.split("\n## Reasons\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let rows = section.context("no table of reasons")?.lines().filter_map(|line| line.strip_prefix("| `"));
    let told: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    assert_eq!(told.iter().copied().collect::<BTreeSet<_>>(), reasons);
    assert_eq!(told.len(), reasons.len(), "one stands there twice: {told:?}");
    Ok(())
}

#[test]
fn a_list_of_contents_has_the_order_of_its_page() -> Result<()> {
    for name in ["docs/policies.md", "docs/standalone.md"] {
        let page = checkout().join(name);
        let text = fs::read_to_string(&page)?;
        let contents = text.split("\n## ").next().context("no beginning")?;
        let list = contents.lines().filter(|line| line.starts_with("- ") || line.starts_with("  "));
        let links = list.flat_map(|line| line.split("](#").skip(1));
        let listed: Vec<&str> = links.filter_map(|rest| rest.split(')').next()).collect();
        let headings: Vec<String> = prose(&page)?
            .lines()
            .filter(|line| line.starts_with("## "))
            .map(anchor)
            .filter(|anchor| listed.contains(&anchor.as_str()))
            .collect();
        assert!(listed.len() > 8, "{name}: {listed:?}");
        let mut in_order = listed.clone();
        in_order.retain(|anchor| headings.iter().any(|heading| heading == anchor));
        in_order.dedup();
        assert_eq!(in_order, headings, "{name}");
    }
    Ok(())
}

/// The pages that a reader may begin with, and those of the folders that hold more.
fn pages() -> Result<Vec<PathBuf>> {
    let mut folders = vec![checkout().join("docs")];
    let mut pages: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "e2e/digits/README.md"]
        .map(|page| checkout().join(page))
        .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            // A template's links hold for where the page is written to.
            if path.ends_with("experiment/script") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    Ok(pages)
}

/// A page without what stands between its fences.
fn prose(page: &Path) -> Result<String> {
    let text = fs::read_to_string(page).with_context(|| format!("no {}", page.display()))?;
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// The names by which a page's headings are linked to.
fn anchors(page: &Path) -> Result<BTreeSet<String>> {
    let text = prose(page)?;
    let headings = text.lines().filter(|line| line.starts_with('#'));
    Ok(headings.map(anchor).collect())
}

/// The name by which a heading is linked to.
fn anchor(heading: &str) -> String {
    let name = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = name.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_of_every_page_leads_somewhere() -> Result<()> {
    let (mut followed, mut broken) = (0, Vec::new());
    for page in pages()? {
        let text = prose(&page)?;
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let there = if path.is_empty() { page.clone() } else { page.with_file_name(path) };
            let found = there.exists() && (anchor.is_empty() || anchors(&there)?.contains(anchor));
            if !found {
                broken.push(format!("{}: {target}", page.display()));
            }
            followed += 1;
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(followed > 20, "only {followed} links were found");
    Ok(())
}

/// Killed when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The variables of a text that are set: `NAME=value`, in a unit after `Environment=`.
fn variables(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(|line| line.trim_start_matches("Environment="));
    lines.filter(|line| line.starts_with("TERRACE_")).filter_map(|line| line.split_once('='))
}

/// Starts the agent as systemd would, with other folders for those that need an installation.
fn start_as_installed(site: &Site, log: &Path) -> Result<Running> {
    let folder = checkout().join("packaging/systemd");
    let unit = fs::read_to_string(folder.join("terrace-agent.service"))?;
    let settings = fs::read_to_string(folder.join("terrace-agent.env"))?;
    let mut environment: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in variables(&unit).chain(variables(&settings)) {
        let value = match name {
            "TERRACE_MANIFESTS" => site.folder().join("manifests").display().to_string(),
            "TERRACE_DATA_DIR" => site.data_dir().display().to_string(),
            "TERRACE_FILE_ROOTS" => digits::folder().display().to_string(),
            "TERRACE_ONNXRUNTIME" => onnxruntime().context("no ONNX Runtime")?.display().to_string(),
            _ => value.to_owned(),
        };
        environment.insert(name, value);
    }
    environment.insert("TERRACE_LISTEN_HTTP", "127.0.0.1:0".to_owned());
    environment.insert("TERRACE_LISTEN_ADMIN", "127.0.0.1:0".to_owned());
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).context("no ExecStart")?;
    let (program, flags) = start.split_once(' ').unwrap_or((start, ""));
    ensure!(program.ends_with("/terrace-agent"), "{start}");
    // Where `make test` builds it: beside the folder of the tests.
    let built = std::env::current_exe()?.ancestors().nth(2).context("no folder")?.join("terrace-agent");
    let mut command = Command::new(built);
    command.args(flags.split_whitespace()).env_clear().envs(environment);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log)?);
    Ok(Running(command.spawn()?))
}

#[tokio::test]
async fn the_unit_starts_an_agent_that_serves_and_ends_when_it_is_told_to() -> Result<()> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let log = site.folder().join("log");
    let mut agent = start_as_installed(&site, &log)?;
    wait::until("the model to serve", || async {
        let log = fs::read_to_string(&log)?;
        ensure!(log.contains("revision serves model=default.digits"), "{log}");
        Ok(())
    })
    .await?;
    let pid = i32::try_from(agent.0.id()).ok().and_then(Pid::from_raw).context("no pid")?;
    kill_process(pid, Signal::TERM)?;
    let status = wait::until("the agent to end", || {
        let ended = agent.0.try_wait();
        async move { ended?.context("it still runs") }
    })
    .await?;
    assert_eq!(status.code(), Some(0), "{}", fs::read_to_string(&log)?);
    Ok(())
}
