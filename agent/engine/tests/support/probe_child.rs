//! What the tests of the probe start instead of the agent. It is the agent's own child by its own name; by another
//! (a link to it) it is a child that goes wrong in the way that the name says. With other arguments it is an agent.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use rustix::process::{Signal, getpid, kill_process};
use terrace_engine::probe::{Artifact, Limits, ProbeRequest, Prober, SUBCOMMAND, child_main};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [name, rest @ ..] = &arguments[..] else { return ExitCode::FAILURE };
    match rest {
        [only] if only == SUBCOMMAND => {}
        [library, model, sha256, verdicts] => return be_an_agent(library, model, sha256, verdicts),
        _ => return ExitCode::FAILURE,
    }
    match Path::new(name).file_name().and_then(|name| name.to_str()) {
        Some("deaf") => ExitCode::FAILURE,
        Some("probe-child") => child_main(),
        name => misbehave(name.unwrap_or_default(), Path::new(&arguments[0])),
    }
}

fn misbehave(how: &str, own_path: &Path) -> ExitCode {
    let _what_it_is_told = io::stdin().read_to_end(&mut Vec::new());
    match how {
        "garbage" => {
            println!("I like this model");
            eprintln!("I really do");
            return ExitCode::SUCCESS;
        }
        "talkative" => {
            let line = [b'a'; 1024];
            while io::stdout().write_all(&line).is_ok() {}
            for _ in 0..1024 {
                let _nobody_listens = io::stderr().write_all(&line);
            }
            eprintln!("\n\x1b[31mlast\twords\u{7}\n\n");
        }
        "killed" => end(Signal::KILL),
        "aborted" => end(Signal::ABORT),
        "terminated" => end(Signal::TERM),
        "hanging" => {
            // Whoever listens there sees that this process lives, and when it ends.
            let _alive = UnixStream::connect(own_path.with_extension("socket"));
            loop {
                std::thread::park();
            }
        }
        "curious" => {
            let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
            let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
            let open = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
            let open: Vec<String> = open.map(|path| path.to_string_lossy().into_owned()).collect();
            eprintln!("environment {:?}, open {}", names.collect::<Vec<_>>(), open.join(" "));
        }
        _ => eprintln!("there is no such way"),
    }
    ExitCode::FAILURE
}

fn end(signal: Signal) {
    let _ended = kill_process(getpid(), signal);
}

/// Probes a model as an agent does. Its child has this process's standard output too, so that whoever reads that
/// hears when both are gone.
fn be_an_agent(library: &str, model: &str, sha256: &str, verdicts: &str) -> ExitCode {
    let own = std::env::current_exe();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // Without the flag that closes it in a child.
    let (Ok(program), Ok(runtime), Ok(_kept)) = (own, runtime, rustix::io::dup(io::stdout())) else {
        return ExitCode::FAILURE;
    };
    let prober = Prober {
        program,
        library: library.into(),
        runtime: "onnxruntime".to_owned(),
        verdicts: verdicts.into(),
        limits: Limits { cpu_seconds: 99, patience: Duration::from_secs(99), ..Limits::default() },
    };
    let request = ProbeRequest {
        model: Artifact { path: model.into(), sha256: sha256.to_owned() },
        cases: None,
        tolerance: 0.0,
        threads: 1,
        providers: Vec::new(),
    };
    let found = runtime.block_on(prober.probe(&request, SystemTime::now()));
    eprintln!("{found:?}");
    ExitCode::SUCCESS
}
