//! etcd, API server and controller manager, as processes on loopback with credentials of their own.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use kube::Client;
use kube::config::{AuthInfo, Config};
use pem::Pem;

use super::process::Process;
use crate::{checkout, wait};

/// The administrator's token. It opens nothing but this cluster, which ends with the test.
const ADMIN: &str = "administrator-of-this-test-alone";
/// Where etcd listens.
const ETCD: &str = "etcd.sock";
/// What signs ServiceAccounts' tokens.
const KEY: &str = "service-accounts.key";
/// What does once the keys were rotated.
const NEXT_KEY: &str = "service-accounts-next.key";
/// Controllers that tests rely on. Those of nodes and workloads are left out: a test plays their part.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,\
    root-ca-certificate-publisher-controller";

/// The processes, and the way to them.
#[derive(Debug)]
pub struct ControlPlane {
    assets: PathBuf,
    folder: PathBuf,
    port: u16,
    /// Files of the keys of ServiceAccounts' tokens. The first signs, all are taken.
    keys: Vec<&'static str>,
    etcd: Process,
    api_server: Option<Process>,
    controller_manager: Option<Process>,
}

impl ControlPlane {
    /// Starts etcd and the API server in `folder`.
    pub async fn start(folder: &Path) -> Result<Self> {
        let assets = assets()?;
        let folder = folder.join("control-plane");
        std::fs::create_dir(&folder)?;
        let port = free_port()?;
        write_credentials(&folder)?;
        // Sockets: nobody else can take them.
        let url = |socket: &str| format!("unix://{}", folder.join(socket).display());
        let etcd = Process::start(
            &assets.join("etcd"),
            &[
                format!("--data-dir={}", folder.join("etcd").display()),
                format!("--listen-client-urls={}", url(ETCD)),
                format!("--advertise-client-urls={}", url(ETCD)),
                format!("--listen-peer-urls={}", url("peer.sock")),
                format!("--initial-advertise-peer-urls={}", url("peer.sock")),
                format!("--initial-cluster=default={}", url("peer.sock")),
                // The data is gone with the test.
                "--unsafe-no-fsync".to_owned(),
                "--log-level=error".to_owned(),
            ],
            &[],
            &folder.join("etcd.log"),
        )?;
        let keys = vec![KEY];
        let api_server = Some(api_server(&assets, &folder, port, &keys)?);
        let mut started = Self { assets, folder, port, keys, etcd, api_server, controller_manager: None };
        started.wait_ready().await?;
        Ok(started)
    }

    /// Starts the controller manager. Once the kinds are served: what a kind that it does not know owns, it collects
    /// late.
    pub fn start_controller_manager(&mut self) -> Result<()> {
        self.controller_manager = Some(controller_manager(&self.assets, &self.folder, self.port)?);
        Ok(())
    }

    /// Stops the API server, as if its machine were away.
    pub fn stop_api_server(&mut self) -> Result<()> {
        self.api_server.take().context("it does not run")?.kill9()
    }

    /// Starts it again where it was.
    pub async fn start_api_server(&mut self) -> Result<()> {
        self.api_server = Some(api_server(&self.assets, &self.folder, self.port, &self.keys)?);
        self.wait_ready().await
    }

    /// Starts the API server anew with another key that signs ServiceAccounts' tokens; those of the old one are still taken.
    pub async fn rotate_token_keys(&mut self) -> Result<()> {
        self.stop_api_server()?;
        write_key(&self.folder.join(NEXT_KEY))?;
        self.keys.insert(0, NEXT_KEY);
        self.start_api_server().await
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let certificate = self.folder.join("certificates/apiserver.crt");
        let ready = wait::until_within("the API server to be ready", wait::LIMIT * 4, || {
            let client = certificate.exists().then(|| self.client());
            async move {
                let client = client.context("it has no certificate yet")??;
                let request = http::Request::get("/readyz").body(Vec::new())?;
                ensure!(client.request_text(request).await? == "ok", "not ready");
                Ok(())
            }
        });
        let ready = ready.await;
        if ready.is_err() {
            let words = self.api_server.as_ref().map(Process::last_words).unwrap_or_default();
            return ready.with_context(|| format!("etcd:\n{}\nAPI server:\n{words}", self.etcd.last_words()));
        }
        ready
    }

    /// `https://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The administrator's client.
    pub fn client(&self) -> Result<Client> {
        self.client_with(ADMIN)
    }

    /// A client with a token.
    pub fn client_with(&self, token: &str) -> Result<Client> {
        let token = Some(token.to_owned().into());
        Ok(Client::try_from(self.config(AuthInfo { token, ..AuthInfo::default() })?)?)
    }

    /// A client for requests that bring their credentials, and are tried once.
    pub fn plain_client(&self) -> Result<Client> {
        let mut config = self.config(AuthInfo::default())?;
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }

    fn config(&self, auth_info: AuthInfo) -> Result<Config> {
        let mut config = Config::new(self.url().parse()?);
        let certificates = std::fs::read(self.folder.join("certificates/apiserver.crt"))?;
        config.root_cert = Some(pem::parse_many(certificates)?.into_iter().map(Pem::into_contents).collect());
        config.auth_info = auth_info;
        Ok(config)
    }

    /// A kubeconfig that reads its token from a file, as one in a pod does.
    pub fn kubeconfig(&self, folder: &Path, name: &str, token: &str) -> Result<PathBuf> {
        self.kubeconfig_at(&self.url(), folder, name, token)
    }

    /// The same for another address of the API server: a proxy's.
    pub fn kubeconfig_at(&self, url: &str, folder: &Path, name: &str, token: &str) -> Result<PathBuf> {
        let token_file = folder.join(format!("{name}.token"));
        std::fs::write(&token_file, token)?;
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: \"{url}\", certificate-authority: \"{}\"}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
             users: [{{name: test, user: {{tokenFile: \"{}\"}}}}]\n",
            self.folder.join("certificates/apiserver.crt").display(),
            token_file.display()
        );
        let file = folder.join(format!("{name}.kubeconfig"));
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// kubectl, as the administrator. What it may cache of the API is this cluster's.
    pub fn kubectl(&self) -> Result<Command> {
        let kubeconfig = self.kubeconfig(&self.folder, "administrator", ADMIN)?;
        let mut kubectl = Command::new(self.assets.join("kubectl"));
        kubectl.env("KUBECONFIG", kubeconfig).env("KUBECACHEDIR", self.folder.join("kubectl-cache"));
        kubectl.current_dir(checkout());
        Ok(kubectl)
    }

    /// What the API server was asked for, one entry a request, once it was answered.
    pub fn audit(&self) -> Result<Vec<serde_json::Value>> {
        let log = std::fs::read_to_string(self.folder.join("audit.log"))?;
        // The last line may still be on its way.
        Ok(log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

/// The folder with the programs: built where they are not there yet.
fn assets() -> Result<PathBuf> {
    let output = Command::new(checkout().join("tools/controlplane")).output()?;
    ensure!(
        output.status.success(),
        "there is no control plane: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The key that signs ServiceAccounts' tokens, the administrator's token, and what is audited.
fn write_credentials(folder: &Path) -> Result<()> {
    write_key(&folder.join(KEY))?;
    std::fs::write(
        folder.join("tokens.csv"),
        format!("{ADMIN},administrator,administrator,system:masters\n"),
    )?;
    std::fs::write(
        folder.join("audit.yaml"),
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n",
    )?;
    Ok(())
}

/// A new private key.
fn write_key(file: &Path) -> Result<()> {
    let key = KeyPair::generate(KeySize::Rsa2048).map_err(|_| anyhow::anyhow!("no key"))?;
    let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| anyhow::anyhow!("no key"))?;
    Ok(std::fs::write(file, pem::encode(&Pem::new("PRIVATE KEY", der.as_ref())))?)
}

fn api_server(assets: &Path, folder: &Path, port: u16, keys: &[&str]) -> Result<Process> {
    let at = |file: &str| folder.join(file).display().to_string();
    let signing = keys.first().context("no key")?;
    let taken = keys.iter().map(|key| format!("--service-account-key-file={}", at(key)));
    let arguments: Vec<String> = taken
        .chain([
            format!("--etcd-servers=unix://{}", at(ETCD)),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            // Else it looks for a default route, and ends where there is none.
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            // It makes a certificate for itself.
            format!("--cert-dir={}", at("certificates")),
            format!("--token-auth-file={}", at("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-signing-key-file={}", at(signing)),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            format!("--audit-policy-file={}", at("audit.yaml")),
            format!("--audit-log-path={}", at("audit.log")),
            "--audit-log-mode=blocking".to_owned(),
            "--profiling=false".to_owned(),
        ])
        .collect();
    Process::start(&assets.join("kube-apiserver"), &arguments, &[], &folder.join("kube-apiserver.log"))
}

fn controller_manager(assets: &Path, folder: &Path, port: u16) -> Result<Process> {
    let at = |file: &str| folder.join(file).display().to_string();
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters: [{{name: test, cluster: {{server: \"https://127.0.0.1:{port}\", insecure-skip-tls-verify: true}}}}]\n\
         contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
         users: [{{name: test, user: {{token: {ADMIN}}}}}]\n"
    );
    std::fs::write(folder.join("controller-manager.kubeconfig"), kubeconfig)?;
    // It ends where the API server is away for long at its start; the shell of a real cluster would start it again.
    let program = assets.join("kube-controller-manager");
    let arguments = [
        format!("--kubeconfig={}", at("controller-manager.kubeconfig")),
        format!("--controllers={CONTROLLERS}"),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        "--secure-port=0".to_owned(),
        "--use-service-account-credentials=false".to_owned(),
        format!("--root-ca-file={}", at("certificates/apiserver.crt")),
    ];
    let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    Process::start(&program, &arguments, &[], &folder.join("kube-controller-manager.log"))
}
