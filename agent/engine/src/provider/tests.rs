//! What is tried, in which order, and what is said of it: with a library and a model that each row makes up.

use super::*;

type Nodes<'a> = &'a [(&'a str, usize)];

const OPENVINO: &str = "OpenVINOExecutionProvider";
const CUDA: &str = "CUDAExecutionProvider";
const TENSORRT: &str = "TensorrtExecutionProvider";

fn ask(kind: ProviderKind) -> ExecutionProvider {
    ExecutionProvider { kind, options: BTreeMap::new(), required: false }
}

fn openvino(device: &str) -> ExecutionProvider {
    let options = BTreeMap::from([("device_type".to_owned(), device.to_owned())]);
    ExecutionProvider { options, ..ask(ProviderKind::OpenVino) }
}

fn required(provider: ExecutionProvider) -> ExecutionProvider {
    ExecutionProvider { required: true, ..provider }
}

/// How a candidate is called in these tests: `OpenVINO:NPU`, `CUDA`.
fn name(candidate: &Candidate) -> String {
    let kind = candidate.kind.name().trim_end_matches("ExecutionProvider");
    candidate.device.as_ref().map_or_else(|| kind.to_owned(), |device| format!("{kind}:{device}"))
}

/// A machine: which candidates register, with which the model does not load, and what they run by the first that is there.
struct Machine<'a> {
    offered: &'a [ProviderKind],
    dead: &'a [&'a str],
    choking: &'a [&'a str],
    runs: &'a [(&'a str, Nodes<'a>)],
}

const ALL_OFFERED: Machine<'_> =
    Machine { offered: &ProviderKind::ALL, dead: &[], choking: &[], runs: &[("", &[(CPU, 7)])] };

impl Machine<'_> {
    /// What was tried, and what came of it: `provider device nodes` of what runs, then what was passed over and why.
    fn choose(&self, asked: &[ExecutionProvider]) -> (Vec<String>, Result<String, String>) {
        let mut tried = Vec::new();
        let chosen = choose(
            asked,
            3,
            |kind| self.offered.contains(&kind),
            |together| {
                let names: Vec<String> = together.iter().map(name).collect();
                tried.push(names.join(" "));
                let is_in = |list: &[&str], name: &String| list.contains(&name.as_str());
                if let Some(place) = names.iter().position(|name| is_in(self.dead, name)) {
                    return Ok(Attempt::NotRegistered(place, format!("no {}", names[place])));
                }
                if names.iter().any(|name| is_in(self.choking, name)) {
                    return Ok(Attempt::NotLoaded("it chokes".to_owned()));
                }
                let runs =
                    self.runs.iter().find(|(first, _)| names.first().is_some_and(|name| name == first));
                let nodes = runs.map_or(&[(CPU, 7)][..], |(_, nodes)| nodes);
                Ok(Attempt::Loaded(
                    (),
                    nodes.iter().map(|(name, nodes)| ((*name).to_owned(), *nodes)).collect(),
                ))
            },
        );
        let told = chosen.map_err(|error| error.to_string()).map(|((), placement)| {
            let placed = placement.placed.iter().map(|placed| {
                let device = placed.device.as_deref().unwrap_or("-");
                format!("{} {device} {}", placed.provider, placed.nodes)
            });
            let passed = placement.passed_over.iter().map(|passed| {
                let device = passed.device.as_deref().unwrap_or("-");
                format!("not {} {device} {}", passed.provider, passed.reason.as_str())
            });
            placed.chain(passed).collect::<Vec<_>>().join(", ")
        });
        (tried, told)
    }

    fn check(&self, asked: &[ExecutionProvider], tried: &[&str], told: Result<&str, &str>) {
        let found = self.choose(asked);
        let told = told.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(found, (tried.iter().map(|names| (*names).to_owned()).collect(), told), "{asked:?}");
    }
}

#[test]
fn who_asks_for_nothing_gets_the_cpu() {
    ALL_OFFERED.check(&[], &[""], Ok("CPUExecutionProvider - 7"));
}

#[test]
fn what_the_library_lacks_is_told_once_and_not_tried() {
    let machine = Machine { offered: &[], ..ALL_OFFERED };
    let asked = [openvino("NPU"), openvino("GPU"), ask(ProviderKind::Cuda)];
    machine.check(
        &asked,
        &[""],
        Ok("CPUExecutionProvider - 7, not OpenVINOExecutionProvider NPU NotInThisVariant, not CUDAExecutionProvider - NotInThisVariant"),
    );
    let words = "CUDAExecutionProvider is required: this agent's ONNX Runtime was built without it: give the agent a library that has it (--onnxruntime)";
    machine.check(&[required(ask(ProviderKind::Cuda))], &[], Err(words));
}

#[test]
fn the_next_is_tried_where_one_does_not_start_or_does_not_load_the_model() {
    let machine = Machine {
        dead: &["OpenVINO:NPU"],
        choking: &["OpenVINO:GPU"],
        runs: &[("OpenVINO:CPU", &[(OPENVINO, 7)])],
        ..ALL_OFFERED
    };
    machine.check(
        &[openvino("NPU"), openvino("GPU"), openvino("CPU")],
        &["OpenVINO:NPU", "OpenVINO:GPU", "OpenVINO:CPU"],
        Ok("OpenVINOExecutionProvider CPU 7, not OpenVINOExecutionProvider NPU ProviderUnavailable, not OpenVINOExecutionProvider GPU ProviderFailed"),
    );
    // The CPU, where nothing is left.
    machine.check(
        &[openvino("NPU")],
        &["OpenVINO:NPU", ""],
        Ok("CPUExecutionProvider - 7, not OpenVINOExecutionProvider NPU ProviderUnavailable"),
    );
}

#[test]
fn who_is_required_and_does_not_start_or_load_is_told_with_its_words() {
    let machine = Machine { dead: &["OpenVINO:NPU"], choking: &["CUDA"], ..ALL_OFFERED };
    machine.check(
        &[required(openvino("NPU")), ask(ProviderKind::Cuda)],
        &["OpenVINO:NPU CUDA"],
        Err("OpenVINOExecutionProvider on NPU is required: no OpenVINO:NPU"),
    );
    machine.check(
        &[required(ask(ProviderKind::Cuda))],
        &["CUDA"],
        Err("CUDAExecutionProvider is required: it chokes"),
    );
}

#[test]
fn several_providers_share_a_model_and_each_is_told_with_its_nodes() {
    let machine = Machine {
        runs: &[("Tensorrt", &[(TENSORRT, 5), (CUDA, 9), (CPU, 1)]), ("CUDA", &[(CUDA, 14), (CPU, 1)])],
        ..ALL_OFFERED
    };
    machine.check(
        &[ask(ProviderKind::TensorRt), ask(ProviderKind::Cuda)],
        &["Tensorrt CUDA"],
        Ok("TensorrtExecutionProvider - 5, CUDAExecutionProvider - 9, CPUExecutionProvider - 1"),
    );
    // One that is required must run all of it, with those before it.
    machine.check(
        &[ask(ProviderKind::TensorRt), required(ask(ProviderKind::Cuda))],
        &["Tensorrt CUDA"],
        Err("CUDAExecutionProvider is required: it would run 14 of the model's 15 nodes, with 1 on CPUExecutionProvider"),
    );
    machine.check(
        &[required(ask(ProviderKind::TensorRt)), ask(ProviderKind::Cuda)],
        &["Tensorrt CUDA"],
        Err("TensorrtExecutionProvider is required: it would run 5 of the model's 15 nodes, with 9 on CUDAExecutionProvider, 1 on CPUExecutionProvider"),
    );
    let whole = Machine { runs: &[("Tensorrt", &[(TENSORRT, 5), (CUDA, 9)])], ..ALL_OFFERED };
    whole.check(
        &[ask(ProviderKind::TensorRt), required(ask(ProviderKind::Cuda))],
        &["Tensorrt CUDA"],
        Ok("TensorrtExecutionProvider - 5, CUDAExecutionProvider - 9"),
    );
}

#[test]
fn who_takes_no_node_is_passed_over_and_claims_nothing() {
    let machine = Machine { runs: &[("Tensorrt", &[(CUDA, 7)]), ("CUDA", &[(CUDA, 7)])], ..ALL_OFFERED };
    machine.check(
        &[ask(ProviderKind::TensorRt), ask(ProviderKind::Cuda)],
        &["Tensorrt CUDA", "CUDA"],
        Ok("CUDAExecutionProvider - 7, not TensorrtExecutionProvider - NoNodes"),
    );
    ALL_OFFERED.check(
        &[required(ask(ProviderKind::Cuda))],
        &["CUDA"],
        Err("CUDAExecutionProvider is required: it takes no node of this model"),
    );
}

#[test]
fn auto_is_a_gpu_else_an_npu_else_the_cpu_and_the_device_is_known() {
    let nothing_but_cpu = Machine {
        dead: &["OpenVINO:GPU", "OpenVINO:NPU"],
        runs: &[("OpenVINO:CPU", &[(OPENVINO, 7)])],
        ..ALL_OFFERED
    };
    let passed = "not OpenVINOExecutionProvider GPU ProviderUnavailable, not OpenVINOExecutionProvider NPU ProviderUnavailable";
    let told = format!("OpenVINOExecutionProvider CPU 7, {passed}");
    for asked in [openvino("AUTO"), required(openvino("AUTO"))] {
        nothing_but_cpu.check(&[asked], &["OpenVINO:GPU", "OpenVINO:NPU", "OpenVINO:CPU"], Ok(&told));
    }
    // A device that runs a part is not enough where all is required, and the next may be.
    let gpu = Machine {
        runs: &[("OpenVINO:GPU", &[(OPENVINO, 6), (CPU, 1)]), ("OpenVINO:NPU", &[(OPENVINO, 7)])],
        ..ALL_OFFERED
    };
    gpu.check(
        &[openvino("AUTO")],
        &["OpenVINO:GPU"],
        Ok("OpenVINOExecutionProvider GPU 6, CPUExecutionProvider - 1"),
    );
    gpu.check(
        &[required(openvino("AUTO"))],
        &["OpenVINO:GPU", "OpenVINO:NPU"],
        Ok("OpenVINOExecutionProvider NPU 7, not OpenVINOExecutionProvider GPU ProviderIncomplete"),
    );
    let none = Machine { dead: &["OpenVINO:GPU", "OpenVINO:NPU", "OpenVINO:CPU"], ..ALL_OFFERED };
    none.check(
        &[required(openvino("AUTO"))],
        &["OpenVINO:GPU", "OpenVINO:NPU", "OpenVINO:CPU"],
        Err("OpenVINOExecutionProvider on CPU is required: no OpenVINO:CPU"),
    );
}

#[test]
fn a_model_that_no_one_loads_is_refused_with_the_last_words() {
    let found = choose(
        &[ask(ProviderKind::Cuda)],
        1,
        |_| true,
        |_| Ok(Attempt::<()>::NotLoaded("it is junk".to_owned())),
    );
    assert_eq!(found.err(), Some(LoadError::Refused("it is junk".to_owned())));
}

#[test]
fn options_that_decide_on_device_and_threads_are_written_out() {
    let options = |asked| {
        let candidates = candidates(&[asked], 3);
        let text = |(name, value): (&String, &String)| format!("{name}={value}");
        candidates
            .iter()
            .map(|one| one.options.iter().map(text).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(options(ask(ProviderKind::OpenVino)), ["device_type=CPU num_of_threads=3"]);
    assert_eq!(options(openvino("GPU.1")), ["device_type=GPU.1"]);
    let auto = ["device_type=GPU", "device_type=NPU", "device_type=CPU num_of_threads=3"];
    assert_eq!(options(openvino("AUTO")), auto);
    assert_eq!(options(ask(ProviderKind::Cuda)), [""]);
    assert_eq!(options(ask(ProviderKind::Qnn)), ["backend_type=htp"]);
}

#[test]
fn who_runs_most_gives_the_model_its_name_and_only_what_may_pass_does_not_last() {
    let placed = |provider: &str, nodes| Placed { provider: provider.to_owned(), device: None, nodes };
    let placement = |placed| Placement { placed, passed_over: Vec::new() };
    assert_eq!(placement(vec![placed(OPENVINO, 1), placed(CPU, 99)]).provider(), CPU);
    assert_eq!(placement(vec![placed(OPENVINO, 5), placed(CPU, 5)]).provider(), OPENVINO);
    assert_eq!(placement(Vec::new()).provider(), CPU);
    for (reason, lasts) in [
        (Reason::NotInThisVariant, true),
        (Reason::NoNodes, true),
        (Reason::ProviderIncomplete, true),
        (Reason::ProviderUnavailable, false),
        (Reason::ProviderFailed, false),
    ] {
        let passed = PassedOver { provider: CUDA.to_owned(), device: None, reason, message: String::new() };
        assert_eq!(Placement { placed: Vec::new(), passed_over: vec![passed] }.lasts(), lasts, "{reason:?}");
    }
}

#[test]
fn a_provider_may_not_say_much() {
    let long = Machine { dead: &["CUDA"], ..ALL_OFFERED };
    assert_eq!(long.choose(&[ask(ProviderKind::Cuda)]).0, ["CUDA", ""]);
    let candidate = &candidates(&[ask(ProviderKind::Cuda)], 1)[0];
    let passed = candidate.passed_over(Reason::ProviderUnavailable, &"ö".repeat(1000));
    assert_eq!(passed.message.chars().count(), MOST_CHARS);
}
