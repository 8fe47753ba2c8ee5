//! Kill -9 at any moment of a fetch or a swap: the agent serves again from disk, one revision or the other, whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use terrace_e2e::agent::{Agent, Launch};
use terrace_e2e::dice::Dice;
use terrace_e2e::digits;
use terrace_e2e::expected::Expected;
use terrace_e2e::manifests::Model;
use terrace_e2e::server::{Pace, Plan, Server};
use terrace_e2e::site::Site;
use terrace_e2e::wait;
use tokio::time::sleep;

/// Kills of each of the two tests.
const KILLS: usize = 60;
const IMAGES: usize = 8;

/// A site whose models come from a slow web server that can be switched off.
struct Ward {
    site: Site,
    _server: Server,
    is_off: Arc<AtomicBool>,
    models: [Model; 2],
    expected: Expected,
    dice: Dice,
    /// How often each revision served after a kill.
    served: [usize; 2],
}

impl Ward {
    async fn new(what: &str) -> Result<Self> {
        let is_off = Arc::new(AtomicBool::new(false));
        let off = Arc::clone(&is_off);
        let server = Server::start(move |seen| {
            if off.load(Ordering::Relaxed) {
                return Plan::ok("").pace(Pace::HangUp);
            }
            // 64 bytes every 2 ms: a fetch is long enough to be hit.
            match std::fs::read(digits::folder().join(seen.path().trim_start_matches('/'))) {
                Ok(file) if seen.path().ends_with(".onnx") => {
                    Plan::ok(file).pace(Pace::Pieces(64, Duration::from_millis(2)))
                }
                Ok(file) => Plan::ok(file),
                Err(_) => Plan::status(404, ""),
            }
        })
        .await?;
        let names = ["digits-device", "digits-device-r2"];
        let mut models = Vec::new();
        for name in names {
            let mut cases = digits::cases_file(name)?;
            cases.uri = format!("{}/cases/{name}.json", server.url());
            models.push(
                Model::digits(name)?.from(&format!("{}/models/{name}.onnx", server.url())).with_cases(cases),
            );
        }
        let models = <[Model; 2]>::try_from(models).map_err(|_| anyhow::anyhow!("two models"))?;
        let site = Site::new()?;
        let recorded = [(names[0], Model::digits(names[0])?), (names[1], Model::digits(names[1])?)];
        let expected = Expected::record(&recorded, IMAGES).await?;
        Ok(Self { site, _server: server, is_off, models, expected, dice: Dice::shaken(what), served: [0; 2] })
    }

    fn launch(&self) -> Launch {
        self.site.agent().switch("--allow-http-sources")
    }

    fn declare(&self, which: usize) -> Result<()> {
        self.site.manifests().model(&self.models[which % 2])
    }

    async fn wait_serving(&self, agent: &Agent, which: usize) -> Result<()> {
        agent.wait_serving("digits", self.models[which % 2].sha256()).await.map(drop)
    }

    /// After a kill: starts it again, in a third of all rounds with its source switched off, and sees that it serves.
    async fn revive(&mut self, round: usize) -> Result<Agent> {
        let alone = self.dice.below(3) == 0;
        self.is_off.store(alone, Ordering::Relaxed);
        let agent =
            self.launch().ready().await.with_context(|| format!("round {round}, source off: {alone}"))?;
        let mut connection = agent.connect().await?;
        for image in 0..IMAGES {
            let reply = connection.send(self.expected.request(image)).await?;
            ensure!(reply.status == 200, "round {round}: {} {}\n{}", reply.status, reply.text(), agent.log());
            let digest = agent.model("digits").await?.serving_sha256.context("nothing serves")?;
            let which = usize::from(digest == self.models[1].sha256());
            self.served[which] += usize::from(image == 0);
            self.check(image, reply).with_context(|| format!("round {round}"))?;
        }
        self.assert_whole()?;
        if alone {
            self.is_off.store(false, Ordering::Relaxed);
        }
        Ok(agent)
    }

    /// The revision names differ from those recorded, since the sources do: outputs are compared with both.
    fn check(&self, image: usize, reply: terrace_e2e::http::Reply) -> Result<()> {
        let outputs = reply.answered()?.outputs()?;
        ensure!(
            self.expected.all(image).any(|known| *known == outputs),
            "{outputs} is what no revision answers"
        );
        Ok(())
    }

    /// Nothing in the store is partial: each blob is what its name says.
    fn assert_whole(&self) -> Result<()> {
        for (path, bytes) in self.site.stored()? {
            if let Some(name) = path.strip_prefix("blobs/sha256/") {
                ensure!(digits::sha256(&bytes) == name, "{path} is not what its name says");
            }
        }
        Ok(())
    }

    /// Once it has settled: nothing is left of what was cut short, and only what serves is kept.
    async fn wait_settled(&self, agent: &Agent, which: usize) -> Result<()> {
        self.wait_serving(agent, which).await?;
        wait::until("the data directory to be clean", || async {
            let paths: Vec<String> = self.site.stored()?.into_iter().map(|(path, _)| path).collect();
            let blobs = paths.iter().filter(|path| path.starts_with("blobs/")).count();
            let is_known = |path: &&String| {
                ["blobs/sha256/", "journal/", "verdicts/", "crashes/"]
                    .iter()
                    .any(|folder| path.starts_with(folder))
                    && !path.contains("tmp")
                    || *path == "lock"
            };
            let stray: Vec<&String> = paths.iter().filter(|path| !is_known(path)).collect();
            ensure!(stray.is_empty() && blobs == 2, "{blobs} blobs, stray files {stray:?}");
            Ok(())
        })
        .await
    }

    /// Verdicts of the probe are a cache: without them a load takes its longest way.
    fn forget_verdicts(&mut self) -> Result<()> {
        let verdicts = self.site.data_dir().join("verdicts");
        if self.dice.below(5) == 0 && verdicts.exists() {
            std::fs::remove_dir_all(verdicts)?;
        }
        Ok(())
    }

    fn report(&self, begun: Instant, window: Duration) {
        let [one, two] = self.served;
        println!(
            "{KILLS} kills within {window:?} in {:?}: {one} and {two} starts served one and the other",
            begun.elapsed()
        );
        assert!(one > 0 && two > 0, "the kills all fell on the same side of the swap");
    }
}

#[tokio::test]
async fn killed_while_it_starts_fetches_and_loads_it_serves_again() -> Result<()> {
    let mut ward = Ward::new("killed while it starts").await?;
    let begun = Instant::now();
    ward.declare(0)?;
    ward.wait_settled(&ward.launch().start().await?, 0).await?;
    // How long the whole way takes on this machine; kills fall anywhere on it.
    ward.declare(1)?;
    let started = Instant::now();
    ward.wait_settled(&ward.launch().start().await?, 1).await?;
    let window = started.elapsed();
    for round in 0..KILLS {
        ward.declare(round)?;
        ward.forget_verdicts()?;
        let doomed = ward.launch().spawn()?;
        sleep(ward.dice.time_below(window)).await;
        doomed.kill9()?;
        let agent = ward.revive(round).await?;
        if round % 6 == 5 {
            ward.wait_settled(&agent, round).await.with_context(|| format!("round {round}"))?;
        }
        agent.kill9()?;
    }
    ward.report(begun, window);
    Ok(())
}

#[tokio::test]
async fn killed_while_it_follows_a_change_it_serves_again() -> Result<()> {
    let mut ward = Ward::new("killed while it follows a change").await?;
    let begun = Instant::now();
    ward.declare(0)?;
    let mut agent = ward.launch().ready().await?;
    ward.wait_settled(&agent, 0).await?;
    let started = Instant::now();
    ward.declare(1)?;
    ward.wait_settled(&agent, 1).await?;
    let window = started.elapsed();
    for round in 0..KILLS {
        ward.forget_verdicts()?;
        ward.declare(round)?;
        sleep(ward.dice.time_below(window)).await;
        agent.kill9()?;
        agent = ward.revive(round).await?;
        ward.wait_settled(&agent, round).await.with_context(|| format!("round {round}"))?;
    }
    ward.report(begun, window);
    Ok(())
}
