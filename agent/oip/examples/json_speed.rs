//! How long JSON takes: `cargo run --release -p terrace-oip --example json_speed`. The least of many runs counts;
//! anything else on the cores doubles the others.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use terrace_oip::{InferRequest, InferResponse, Parameters, RelayedResponse, Tensor, TensorData};

const ELEMENTS: u16 = 50_176;
const RUNS: usize = 300;

fn main() {
    let noise = |index: u32| (index.wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0;
    let values = (0..3 * u32::from(ELEMENTS)).map(noise).collect::<Vec<_>>();
    let shape = vec![1, 3, 224, 224];

    for (name, data) in [
        ("FP32", TensorData::Fp32(values.clone().into())),
        ("FP64", TensorData::Fp64(values.iter().map(|value| f64::from(*value).sqrt()).collect())),
        ("FP16", TensorData::Fp16(values.iter().map(|value| half::f16::from_f32(*value)).collect())),
        ("INT32", TensorData::Int32((0..3 * i32::from(ELEMENTS)).collect())),
    ] {
        let Ok(tensor) = Tensor::new("image", shape.clone(), data) else { continue };
        let outputs = [tensor];
        let parameters = Parameters::new();
        let response = InferResponse {
            model_name: "m",
            model_version: None,
            id: None,
            parameters: &parameters,
            outputs: &outputs,
        };
        let Ok(body) = response.to_json() else { continue };
        let body = Bytes::from(body);
        let request = String::from_utf8_lossy(&body).replace("outputs", "inputs");

        println!("{name}: {} elements, {} bytes", outputs[0].data().len(), body.len());
        report("parse request", || InferRequest::from_json(black_box(request.as_bytes())).is_ok());
        report("write response", || black_box(&response).to_json().is_ok());
        report("check response", || RelayedResponse::from_json(black_box(&body)).is_ok());
        report("relay response", || {
            RelayedResponse::from_json(black_box(&body)).is_ok_and(|response| response.to_json().is_ok())
        });
    }
}

fn report(what: &str, mut run: impl FnMut() -> bool) {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            assert!(run());
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("  {what}: least {:?}, median {:?}", times[0], times[RUNS / 2]);
}
