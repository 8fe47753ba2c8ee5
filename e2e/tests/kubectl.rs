//! What the README says to type, typed: with the real kubectl.

use anyhow::{Context as _, Result, ensure};
use terrace_e2e::cluster::Cluster;
use terrace_e2e::site::Site;
use terrace_e2e::{checkout, wait};

/// The `kubectl` lines of the README, each with its arguments.
fn of_the_readme() -> Result<Vec<Vec<String>>> {
    let readme = std::fs::read_to_string(checkout().join("README.md"))?.replace("\\\n", " ");
    let lines = readme.lines().filter_map(|line| line.strip_prefix("$ kubectl "));
    Ok(lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readme_holds_line_for_line() -> Result<()> {
    let cluster = Cluster::start().await?;
    let nodes = ["node-a", "node-b", "node-c", "node-away"];
    for node in nodes {
        cluster.add_node(node, &[]).await?;
    }
    cluster.set_ready("node-away", false).await?;
    let _operator = cluster.operator("operator-a").await?.leading().await?;
    let mut agents = Vec::new();
    for node in &nodes[..3] {
        let site = Site::new()?;
        let agent = cluster.agent(&site, node).await?.start().await?;
        agents.push((site, agent));
    }

    let lines = of_the_readme()?;
    ensure!(lines.len() >= 5, "{lines:?}");
    let mut printed = String::new();
    for line in &lines {
        printed = cluster.kubectl(&line.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        println!("$ kubectl {}\n{printed}", line.join(" "));
    }
    // The last one is `get imodel`, and prints what the README shows.
    let columns = |line: &str| -> Vec<String> {
        line.split("  ").map(str::trim).filter(|column| !column.is_empty()).map(str::to_owned).collect()
    };
    let rows: Vec<Vec<String>> = printed.lines().map(columns).collect();
    let [head, row] = &rows[..] else { anyhow::bail!("{printed}") };
    assert_eq!(head[..], ["NAME", "TIER", "READY", "REVISION", "REASON", "AGE"]);
    assert_eq!(
        (&*row[0], &*row[1], &*row[2], &*row[4]),
        ("digits", "Device", "3/3 (+1 offline)", "AllReady")
    );
    assert!(row[3].starts_with("imodel-digits-"), "{row:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn describe_tells_the_story_and_explain_reads_well() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.add_node("kiosk", &[]).await?;
    let _operator = cluster.operator("operator-a").await?.leading().await?;
    let site = Site::new()?;
    let _agent = cluster.agent(&site, "kiosk").await?.start().await?;
    let digits = "e2e/manifests/examples/digits.yaml";
    // Without --server-side too.
    cluster.kubectl(&["apply", "-f", digits]).await?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "imodel/digits", "--timeout=30s"]).await?;
    let again = cluster.kubectl(&["apply", "-f", digits]).await?;
    assert!(again.contains("inferencemodel.terrace.dev/digits unchanged"), "{again}");
    let again = cluster.kubectl(&["diff", "-f", digits]).await?;
    assert_eq!(again, "", "nothing differs from what was applied");

    wait::until("the story", || async {
        let told = cluster.kubectl(&["describe", "imodel", "digits"]).await?;
        for line in ["RevisionCreated", "AllReady", "serves on the one node", "Ready:", "Events:"] {
            ensure!(told.contains(line), "no {line:?} in {told}");
        }
        Ok(())
    })
    .await?;
    for (arguments, columns) in
        [(["get", "tpol"], &["NAME", "ACCEPTED"][..]), (["get", "inode"], &["NAME", "READY"][..])]
    {
        let table = cluster.kubectl(&arguments).await?;
        let head = table.lines().next().context("nothing printed")?;
        assert!(columns.iter().all(|column| head.contains(column)), "{table}");
    }
    for field in
        ["imodel", "imodel.spec.source", "imodel.spec.placement", "tpol.spec.tiers", "inode.status.models"]
    {
        let text = cluster.kubectl(&["explain", field]).await?;
        assert!(text.contains("DESCRIPTION:") && !text.contains("<no description>"), "{field}: {text}");
    }
    let source = cluster.kubectl(&["explain", "imodel.spec.source.sha256From"]).await?;
    assert!(source.contains("A published checksum file"), "{source}");

    // Deleted without a finalizer: at once.
    cluster.kubectl(&["delete", "-f", digits, "--timeout=10s"]).await?;
    Ok(())
}
