//! Which servers a client trusts, and that it does not leave them for an unencrypted one.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::Site;
use crate::fetch::FetchError;
use terrace_egress::RedirectRefused;

/// The base URL of a server with a certificate of the tests' authority: `/m.onnx` is there, `/http` elsewhere.
fn serve() -> String {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let certificate = CertificateDer::from_pem_slice(include_bytes!("../testdata/server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../testdata/server.key")).unwrap();
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("https://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for connection in listener.incoming() {
            let server = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(server, connection.unwrap());
            // A client that does not trust this server ends the handshake.
            let _ = answer(&mut stream);
        }
    });
    base
}

fn answer(stream: &mut StreamOwned<ServerConnection, TcpStream>) -> io::Result<()> {
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.extend(byte);
    }
    stream.write_all(if request.starts_with(b"GET /http ") {
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/m.onnx?secret\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    } else {
        b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\na model"
    })?;
    stream.conn.send_close_notify();
    stream.flush()
}

#[tokio::test]
async fn a_server_with_a_certificate_of_an_unknown_authority_is_not_trusted() {
    let error = Site::new(&["127.0.0.1"]).refused(&format!("{}/m.onnx", serve())).await;
    assert!(matches!(error, FetchError::Connect { .. }), "{error}");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}

/// Runs an ignored test of this module in a process of its own, to which the environment belongs.
fn run_with(ssl_cert_file: &Path, test: &str) {
    let module = module_path!().split_once("::").unwrap().1;
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::{test}"), "--ignored", "--nocapture"])
        .env("SSL_CERT_FILE", ssl_cert_file)
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stdout);
    let complained = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && told.contains("1 passed"), "{told}{complained}");
}

#[test]
fn authorities_that_ssl_cert_file_names_are_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    fs::write(&file, include_bytes!("../testdata/ca.pem")).unwrap();
    run_with(&file, "with_the_authority_in_ssl_cert_file");
}

#[tokio::test]
#[ignore = "runs in a process with SSL_CERT_FILE, started by the test above"]
async fn with_the_authority_in_ssl_cert_file() {
    let base = serve();
    let strict = || Site::with(&["127.0.0.1"], |options| options.allow_http = false);
    strict().fetch(&format!("{base}/m.onnx"), b"a model").await.unwrap();

    let error = strict().refused(&format!("{base}/http")).await;
    let FetchError::Redirect { refused, .. } = &error else { panic!("{error}") };
    assert_eq!(*refused, RedirectRefused::Insecure { host: "127.0.0.1".to_owned() });
    assert_eq!((error.reason(), error.retryable()), ("SourceNotAllowed", true));
}

/// As in an image without certificates.
#[test]
fn without_any_authority_other_sources_are_still_read() {
    run_with(Path::new("/nonexistent"), "with_no_authority_at_all");
}

#[tokio::test]
#[ignore = "runs in a process with SSL_CERT_FILE, started by the test above"]
async fn with_no_authority_at_all() {
    let site = Site::new(&["127.0.0.1"]);
    fs::write(site.dir.path().join("root/m.onnx"), "a model").unwrap();
    let error = site.refused(&format!("{}/m.onnx", serve())).await;
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    assert!(site.fetch("file:///m.onnx", b"a model").await.is_ok());
}
