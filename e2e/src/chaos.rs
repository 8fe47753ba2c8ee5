//! A tier that has lost its mind: it answers each request rightly or in one of the many ways in which servers go wrong.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::server::{Pace, Plan, Seen, Server};

/// A score that no right answer has: whoever is given it was given what was no answer to its request.
pub const POISON: f64 = 666.25;

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is what it is called
pub enum Mood {
    Right,
    RightInBinary,
    RightButSlow,
    Dribbling,
    Silent,
    CutOff,
    HangsUp,
    Resets,
    WiderShape,
    MoreRows,
    NoElements,
    ManyRowsWithoutElements,
    OtherType,
    OtherOutput,
    NotANumber,
    Status(u16),
    Garbage,
    NotHttp,
    HugeHeader,
    ClaimsATerabyte,
    EndlessChunk,
    TwoAnswers,
}

/// Everything but a right answer.
const BAD: [Mood; 29] = [
    Mood::RightInBinary,
    Mood::RightInBinary,
    Mood::RightButSlow,
    Mood::Dribbling,
    Mood::Silent,
    Mood::Silent,
    Mood::CutOff,
    Mood::HangsUp,
    Mood::Resets,
    Mood::WiderShape,
    Mood::MoreRows,
    Mood::NoElements,
    Mood::ManyRowsWithoutElements,
    Mood::OtherType,
    Mood::OtherOutput,
    Mood::NotANumber,
    Mood::Status(204),
    Mood::Status(302),
    Mood::Status(404),
    Mood::Status(413),
    Mood::Status(429),
    Mood::Status(500),
    Mood::Status(503),
    Mood::Garbage,
    Mood::NotHttp,
    Mood::HugeHeader,
    Mood::ClaimsATerabyte,
    Mood::EndlessChunk,
    Mood::TwoAnswers,
];

impl Mood {
    /// Every other time a right answer: a tier that hardly ever is in time would soon not be asked any more.
    fn random(dice: &mut Dice) -> Self {
        match dice.below(2) {
            0 => Self::Right,
            _ => BAD[dice.below(BAD.len() as u64) as usize],
        }
    }
}

/// Starts such a tier for the patient model, which gives back the scores that it is sent. Its moods follow from the seed
/// and from how many requests came before.
pub async fn start(seed: u64) -> Result<Server> {
    let dice = Mutex::new(Dice::of(seed));
    Server::start(move |seen| {
        let (mood, number) = {
            let mut dice = dice.lock().unwrap_or_else(PoisonError::into_inner);
            (Mood::random(&mut dice), dice.roll())
        };
        mood.plan(seen, number)
    })
    .await
}

impl Mood {
    fn plan(self, seen: &Seen, number: u64) -> Plan {
        let scores = asked(seen);
        let [rows, classes] = scores.shape;
        let right = || json(&scores.shape, "scores", "FP32", json!(scores.values));
        let some = Duration::from_millis(number % 150);
        match self {
            Self::Right => right(),
            Self::RightInBinary => binary(&scores),
            Self::RightButSlow => right().pace(Pace::After(some)),
            Self::Dribbling => right().pace(Pace::Pieces(8, Duration::from_millis(3))),
            Self::Silent => right().pace(Pace::Never),
            Self::CutOff => {
                let plan = right();
                let length = number as usize % plan.body.len();
                plan.pace(Pace::CutAfter(length))
            }
            Self::HangsUp => right().pace(Pace::HangUp),
            Self::Resets => right().pace(Pace::Reset),
            Self::WiderShape => {
                json(&[rows, classes + 1], "scores", "FP32", json!(vec![0.25; rows * (classes + 1)]))
            }
            Self::MoreRows => json(&[rows + 1, classes], "scores", "FP32", json!(vec![0.25; (rows + 1) * classes])),
            Self::NoElements => json(&[rows, 0], "scores", "FP32", json!([])),
            Self::ManyRowsWithoutElements => {
                let shapes: [&[usize]; 3] = [&[rows, 1 << 40, 0], &[1 << 40, 0], &[60_000_000, 0]];
                json(shapes[number as usize % 3], "scores", "FP32", json!([]))
            }
            Self::OtherType => json(&scores.shape, "scores", "INT64", json!(vec![1; rows * classes])),
            Self::OtherOutput => json(&scores.shape, "marks", "FP32", json!(scores.values)),
            Self::NotANumber => {
                let plan = right();
                let text = String::from_utf8_lossy(&plan.body).replacen("\"data\":[", "\"data\":[NaN,", 1);
                Plan { body: text.into_bytes(), ..plan }
            }
            Self::Status(302) => Plan::status(302, "").header("location", "http://127.0.0.1:9/elsewhere"),
            Self::Status(status) => Plan::status(status, json!({"error": "a bad day"}).to_string()),
            Self::Garbage => Plan::ok("<html>Welcome to the captive portal</html>".repeat(1 + number as usize % 50)),
            Self::NotHttp => bare("SSH-2.0-OpenSSH_9.9\r\n\0\u{1}\u{2}".repeat(20)),
            Self::HugeHeader => right().header("x-huge", &"h".repeat(1 << 20)),
            Self::ClaimsATerabyte => bare(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{{",
                1_u64 << 40
            )),
            Self::EndlessChunk => bare(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n7fffffffffffffff\r\n{"
                    .to_owned(),
            ),
            Self::TwoAnswers => {
                let poison = json(&scores.shape, "scores", "FP32", json!(vec![POISON; rows * classes]));
                bare(whole(&right()) + &whole(&poison))
            }
        }
    }
}

/// Scores as a request has them, or as an answer gives them back.
struct Scores {
    shape: [usize; 2],
    values: Vec<f64>,
}

/// What a request in JSON asks the patient model to give back.
fn asked(seen: &Seen) -> Scores {
    let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    let input = &body["inputs"][0];
    let side = |axis: usize| input["shape"][axis].as_u64().unwrap_or(1) as usize;
    let values = input["data"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    Scores { shape: [side(0), side(1)], values }
}

fn json(shape: &[usize], name: &str, datatype: &str, data: Value) -> Plan {
    let body = json!({"model_name": "patient", "model_version": "9", "outputs": [
        {"name": name, "datatype": datatype, "shape": shape, "data": data}
    ]});
    Plan::ok(body.to_string()).header("content-type", "application/json")
}

fn binary(scores: &Scores) -> Plan {
    let tail: Vec<u8> = scores.values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect();
    let head = json!({"model_name": "patient", "model_version": "9", "outputs": [
        {"name": "scores", "datatype": "FP32", "shape": scores.shape,
            "parameters": {"binary_data_size": tail.len()}}
    ]})
    .to_string();
    Plan::ok([head.as_bytes(), &tail].concat())
        .header("content-type", "application/octet-stream")
        .header("inference-header-content-length", &head.len().to_string())
}

fn bare(text: String) -> Plan {
    Plan::ok(text).pace(Pace::Bare)
}

/// An answer in JSON as it is on the wire.
fn whole(plan: &Plan) -> String {
    let mut text = format!("HTTP/1.1 {} Planned\r\ncontent-length: {}\r\n", plan.status, plan.body.len());
    for (name, value) in &plan.headers {
        // Writing to a String cannot fail.
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text + "\r\n" + &String::from_utf8_lossy(&plan.body)
}
