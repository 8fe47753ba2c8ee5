//! Expressions by tables: what they give, and what is said of those that are not accepted.

use std::fmt::Write as _;

use proptest::prelude::*;
use terrace_crds::Tier;

use super::*;

/// Variables with a value for each that tests read.
struct Sample {
    max_latency_ms: Option<f64>,
}

const SAMPLE: Sample = Sample { max_latency_ms: Some(80.5) };

impl Variables for Sample {
    fn read(&self, variable: &Variable) -> Result<Value<'_>, EvalError> {
        Ok(match variable {
            Variable::PrivacyRequired => Value::Bool(false),
            Variable::MaxLatencyMs => Value::Double(self.max_latency_ms.unwrap_or(f64::INFINITY)),
            Variable::Complexity => Value::Double(0.25),
            Variable::Bytes => Value::Int(i64::MAX),
            Variable::Batch => Value::Int(4),
            Variable::InputCount => Value::Int(1),
            Variable::InputShape(name) if **name == *"x" => Value::Shape(&[4, 3, 224]),
            Variable::InputDatatype(name) if **name == *"x" => Value::Text("FP32"),
            Variable::Header(name) if **name == *"x-class" => Value::Text("gold"),
            Variable::Label(key) if **key == *"zone" => Value::Text("wörth"),
            Variable::ModelName => Value::Text("digits"),
            Variable::ModelNamespace => Value::Text("default"),
            Variable::NodeTier => Value::Text("device"),
            Variable::QueueDepth => Value::Int(0),
            Variable::InFlight => Value::Int(2),
            Variable::Remote(Tier::Edge, RemoteField::Available) => Value::Bool(true),
            Variable::Remote(Tier::Edge, RemoteField::Breaker) => Value::Text("closed"),
            Variable::Remote(Tier::Edge, RemoteField::RttMs) => Value::Double(1.5),
            _ => return Err(EvalError::Absent),
        })
    }

    fn has(&self, variable: &Variable) -> bool {
        match variable {
            Variable::MaxLatencyMs => self.max_latency_ms.is_some(),
            Variable::Input(name) => **name == *"x",
            variable => self.read(variable).is_ok(),
        }
    }
}

fn compile(text: &str) -> Result<Expression, String> {
    let headers = ["x-class".to_owned(), "x-none".to_owned()];
    let declarations = Declarations { headers: &headers, complexity: true };
    Expression::compile(text, Type::Bool, &declarations).map_err(|error| error.to_string())
}

fn test(text: &str) -> Result<bool, EvalError> {
    compile(text).unwrap_or_else(|error| panic!("{text}: {error}")).test(&SAMPLE)
}

#[test]
fn conditions_give_what_they_say() {
    for (text, expected) in [
        ("true", true),
        ("!true", false),
        ("!!true", true),
        ("true || false && false", true),
        ("(true || false) && false", false),
        ("1 + 2 * 3 == 7", true),
        ("(1 + 2) * 3 == 9", true),
        ("10 - 4 - 3 == 3", true),
        ("7 / 2 == 3 && -7 / 2 == -3 && -7 % 2 == -1", true),
        ("7.0 / 2.0 == 3.5", true),
        ("1.0 / 0.0 > 1e308", true),
        ("-9223372036854775808 < 0", true),
        ("0x10 == 16 && 1e3 == 1000.0 && .5 == 0.5", true),
        ("- 3 == -3 && -(3) == -3 && -request.batch == -4", true),
        ("request.maxLatencyMs < 100", true),
        ("100 > request.maxLatencyMs", true),
        ("80 < request.maxLatencyMs && request.maxLatencyMs < 81", true),
        ("request.batch >= 4.0 && request.batch <= 4.0 && !(request.batch < 4.0)", true),
        ("request.batch < 4.5 && request.batch > 3.5", true),
        // The nearest double is 2^63, which is larger.
        ("request.bytes < 9223372036854775808.0", true),
        ("request.bytes == 9223372036854775807", true),
        ("request.batch == 4 ? request.complexity < 0.3 : false", true),
        ("request.batch == 4 ? false : true", false),
        ("size(request.inputs) == 1", true),
        ("request.inputs['x'].shape == [4, 3, 224]", true),
        ("[4, 3] != request.inputs['x'].shape", true),
        ("request.inputs.x.shape[1] == 3", true),
        ("request.inputs['x'].shape[0] == request.batch", true),
        ("224 in request.inputs['x'].shape", true),
        ("size(request.inputs['x'].shape) == 3 && request.inputs.x.shape.size() == 3", true),
        ("request.inputs['x'].datatype in ['FP32', 'FP16']", true),
        ("'x' in request.inputs && !('y' in request.inputs)", true),
        ("has(request.inputs.x) && !has(request.inputs.y)", true),
        ("request.headers['X-Class'] == 'gold'", true),
        ("'x-class' in request.headers && !('x-none' in request.headers)", true),
        ("request.headers['x-class'].startsWith('go') && request.headers['x-class'].endsWith(\"ld\")", true),
        ("request.headers['x-class'].contains('ol')", true),
        ("request.headers['x-class'] > 'fold'", true),
        ("size(node.labels.zone) == 5", true),
        ("has(node.labels.zone) && !has(node.labels.rack)", true),
        ("node.labels['zone'] == 'w\\u00f6rth' && r'\\' == '\\\\'", true),
        ("node.tier == 'device' && model.namespace == 'default'", true),
        ("device.queueDepth + device.inFlight < 3", true),
        ("tiers.edge.available && tiers.edge.breaker != 'open'", true),
        ("has(tiers.edge.rttMs) && tiers.edge.rttMs < 2.0", true),
        ("has(tiers.cloud.rttMs)", false),
        ("has(request.maxLatencyMs)", true),
        ("double(request.batch) == 4.0 && int(4.9) == 4 && int(-4.9) == -4", true),
        ("3 in [1, 2, 3] && !(4 in [1, 2, 3,])", true),
        ("true // a comment\n && true", true),
        ("false < true", true),
        // Either side settles it, whatever becomes of the other.
        ("false && 1 / 0 == 1", false),
        ("1 / 0 == 1 && false", false),
        ("true || tiers.cloud.rttMs < 1.0", true),
        ("tiers.cloud.rttMs < 1.0 || true", true),
        ("!has(tiers.cloud.rttMs) || tiers.cloud.rttMs < 1.0", true),
    ] {
        assert_eq!(test(text), Ok(expected), "{text}");
    }
}

#[test]
fn an_absent_deadline_is_infinite_and_known_to_be_absent() {
    let none = Sample { max_latency_ms: None };
    let holds = |text| compile(text).unwrap().test(&none);
    assert_eq!(holds("request.maxLatencyMs > 1e300"), Ok(true));
    assert_eq!(holds("request.maxLatencyMs < 200"), Ok(false));
    assert_eq!(holds("has(request.maxLatencyMs)"), Ok(false));
    assert_eq!(holds("int(request.maxLatencyMs) > 0"), Err(EvalError::OutOfRange));
}

#[test]
fn what_has_no_value_fails_alone() {
    for (text, error) in [
        ("request.batch / 0 == 1", EvalError::DividedByZero),
        ("request.batch % 0 == 1", EvalError::DividedByZero),
        ("request.bytes + 1 > 0", EvalError::OutOfRange),
        ("request.bytes * 2 > 0", EvalError::OutOfRange),
        ("-9223372036854775808 / -1 > 0", EvalError::OutOfRange),
        ("-(-9223372036854775808) > 0", EvalError::OutOfRange),
        ("int(1e300) > 0", EvalError::OutOfRange),
        ("tiers.cloud.rttMs < 1.0", EvalError::Absent),
        ("request.headers['x-none'] == 'a'", EvalError::Absent),
        ("node.labels.rack == 'a'", EvalError::Absent),
        ("request.inputs['y'].shape[0] == 1", EvalError::Absent),
        ("request.inputs['x'].shape[3] == 1", EvalError::NoSuchItem),
        ("request.inputs['x'].shape[-1] == 1", EvalError::NoSuchItem),
        ("1 in [1, request.batch / 0]", EvalError::DividedByZero),
        ("tiers.cloud.rttMs < 1.0 && true", EvalError::Absent),
        ("tiers.cloud.rttMs < 1.0 || false", EvalError::Absent),
    ] {
        assert_eq!(test(text), Err(error), "{text}");
    }
}

#[test]
fn a_fault_has_its_place_and_says_what_is_accepted() {
    for (text, place, part) in [
        ("", "1:1", "is empty"),
        (" // nothing", "1:1", "is empty"),
        (
            "request.maxLatency < 50",
            "1:9",
            "request has no field maxLatency: expected privacyRequired, maxLatencyMs",
        ),
        ("requests.bytes > 1", "1:1", "requests is not known: expected one of request, model"),
        ("tiers.fog.available", "1:7", "tiers has no field fog: expected edge, cloud"),
        ("tiers.edge.url == ''", "1:12", "tiers.edge has no field url: expected configured"),
        ("true &&\n  request.x", "2:11", "request has no field x"),
        ("'ö' == 'ö' && request.x", "1:23", "request has no field x"),
        ("request.bytes", "1:1", "must give a bool, and gives an int"),
        ("1 + 1", "1:1", "must give a bool"),
        ("request", "1:1", "request is no value by itself: name one of its fields: privacyRequired"),
        ("request.headers", "1:1", "request.headers is no value by itself: name one of its entries"),
        ("request.inputs['x'] == 1", "1:1", "name one of its fields: shape, datatype"),
        ("request.bytes.x", "1:15", "request.bytes has no fields"),
        ("request.batch[0] == 1", "1:14", "has neither fields nor entries"),
        ("request.headers['x-other'] == 'a'", "1:16", "x-other is not among spec.requestHeaders"),
        ("request.headers[node.tier] == 'a'", "1:22", "a key of request.headers must be a text in quotes"),
        ("node.tier in request.headers", "1:1", "a key of request.headers must be a text"),
        ("'x' in request", "1:8", "behind in stands a list"),
        ("request.complexity == 1", "1:20", "== does not take double and int: write a number with a point"),
        ("request.batch + 1.0 > 2.0", "1:15", "+ does not take int and double"),
        ("'a' + 'b' == 'ab'", "1:5", "texts are not joined"),
        ("5.0 % 2.0 == 1.0", "1:5", "% does not take double and double"),
        ("request.batch < 'a'", "1:15", "< does not take int and string"),
        ("!request.batch", "1:2", "what ! negates must be a bool, and is an int"),
        ("-true", "1:1", "- needs a number"),
        ("true && 1", "1:9", "both sides of && must be a bool"),
        ("1 ? true : false", "1:1", "the condition before ? must be a bool"),
        ("true ? 1 : 1.0", "1:6", "both values of a condition need one type, and are int and double"),
        ("node.tier == 'fog'", "1:14", "node.tier is never \"fog\": expected one of device, edge, cloud"),
        ("'Edge' == node.tier", "1:1", "node.tier is never \"Edge\""),
        ("tiers.edge.breaker in ['open', 'shut']", "1:32", "is never \"shut\": expected one of closed, open"),
        ("request.inputs.x.datatype == 'float'", "1:30", "is never \"float\": expected one of BOOL"),
        ("1 in [1, 'a']", "1:10", "each item of this list must be an int"),
        ("[1] == [1]", "1:1", "a list can be compared with an input's shape alone"),
        ("size([1]) == 1", "1:6", "a list may stand behind in"),
        ("request.inputs.all(x, true)", "1:16", "there are no macros"),
        ("[1].exists(x, x == 1)", "1:5", "there are no macros"),
        ("node.labels.zone.matches('a+')", "1:18", "regular expressions cannot be bounded"),
        ("now() > 1", "1:1", "now() is not known: expected has, size"),
        ("size(1, 2) == 1", "1:1", "size is called as size(text)"),
        ("'a'.startsWith()", "1:5", "startsWith is called as text.startsWith(text)"),
        ("has(request.headers['x-class'])", "1:1", "has() takes a field; of an entry ask 'key' in"),
        ("has(request.headers)", "1:5", "is always there"),
        ("has(1)", "1:5", "has() takes a field"),
        ("size(request.headers) == 1", "1:6", "has no size here"),
        ("size(1) == 1", "1:6", "an int has no size"),
        ("int('1') == 1", "1:1", "int() takes a number, and has a string"),
        ("request.bytes = 1", "1:15", "write == to compare"),
        ("true & true", "1:6", "write && for and"),
        ("true and true", "1:6", "expected an operator or the end, found and"),
        ("(true", "1:6", "expected ) to close a parenthesis, found the end"),
        ("true)", "1:5", "expected an operator or the end, found )"),
        ("true ? true", "1:12", "expected :"),
        ("1 <", "1:4", "expected a value, found the end"),
        ("'abc", "1:1", "no closing quote"),
        ("'a\nb'", "1:1", "no closing quote on its line"),
        ("'\\q' == 'a'", "1:2", "this escape is not known"),
        ("'''a''' == 'a'", "1:1", "triple quotes"),
        ("b'a' == b'a'", "1:1", "no bytes literals"),
        ("1u == 1", "1:1", "no unsigned numbers"),
        ("9223372036854775808 > 0", "1:1", "no int of 64 bits"),
        ("99999999999999999999 > 0", "1:1", "no int of 64 bits"),
        ("1e999 > 0.0", "1:1", "no finite number"),
        ("1a == 1", "1:2", "need something between them"),
        ("null == null", "1:1", "there is no null"),
        ("{'a': 1} == 1", "1:1", "no map literals"),
        ("if == 1", "1:1", "a word that CEL keeps for itself"),
        ("request.bytes > 1 ; true", "1:19", "';' means nothing here"),
        ("request. == 1", "1:10", "expected a field's name, found =="),
        ("size('a',) == 1", "1:10", "one more argument"),
    ] {
        let error = compile(text).err().unwrap_or_else(|| panic!("{text} was accepted"));
        assert!(error.starts_with(&format!("{place}: ")), "{text}: {error}, not at {place}");
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn what_a_text_may_cost_is_bounded() {
    let nested = |depth: usize| format!("{}true{}", "(".repeat(depth), ")".repeat(depth));
    assert!(compile(&nested(MAX_DEPTH - 1)).is_ok());
    assert!(compile(&nested(MAX_DEPTH)).unwrap_err().contains("nests deeper"));
    assert!(compile(&nested(500)).unwrap_err().contains("nests deeper"));
    assert!(compile(&format!("{}true", "!".repeat(900))).unwrap_err().contains("nests deeper"));
    assert!(compile(&format!("{}1 == 1", "- ".repeat(400))).unwrap_err().contains("nests deeper"));
    assert!(compile(&format!("true ? {}true{}", "true ? ".repeat(40), " : true".repeat(41))).is_err());

    let chain = |parts: usize| vec!["1"; parts].join("+");
    assert!(compile(&format!("{}>1", chain(120))).is_ok());
    assert!(compile(&format!("{}>1", chain(200))).unwrap_err().contains("more than 256 parts"));

    let list = |items: usize| format!("1 in [{}]", vec!["1"; items].join(","));
    assert!(compile(&list(MAX_ITEMS)).is_ok());
    assert!(compile(&list(MAX_ITEMS + 1)).unwrap_err().contains("more than 64 items"));

    let long = |length: usize| format!("true{}", " ".repeat(length - 4));
    assert!(compile(&long(MAX_LENGTH)).is_ok());
    let error = compile(&long(MAX_LENGTH + 1)).unwrap_err();
    assert!(error.starts_with("1:1025: is longer than 1024 characters"), "{error}");
}

/// Words from which a text may be made, right or wrong.
const WORDS: [&str; 34] = [
    "request",
    ".",
    "bytes",
    "maxLatencyMs",
    "inputs",
    "headers",
    "[",
    "]",
    "'x'",
    "(",
    ")",
    "&&",
    "||",
    "!",
    "==",
    "<",
    "+",
    "-",
    "/",
    "1",
    "0",
    "2.5",
    "true",
    "in",
    "?",
    ":",
    ",",
    "has",
    "size",
    "shape",
    "\"",
    "\\",
    "ö",
    "{",
];

proptest! {
    #[test]
    fn no_text_brings_the_compiler_down(text in ".{0,200}") {
        let _ = compile(&text);
    }

    #[test]
    fn no_sequence_of_words_brings_it_down_and_what_is_accepted_has_a_value_or_fails(
        words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..24),
    ) {
        if let Ok(expression) = compile(&words.join(" ")) {
            let result = expression.test(&SAMPLE);
            prop_assert!(result != Err(EvalError::Mismatch), "{}", words.join(" "));
        }
    }

    /// Numbers of both types stand in the order of the numbers that they are.
    #[test]
    fn numbers_of_both_types_are_compared_exactly(left in any::<i64>(), right in any::<i64>(), shift in 0_u32..64) {
        let (left, right) = (left >> shift, (right >> shift) as f64);
        let mut text = String::new();
        write!(text, "{left} < {right:?}").unwrap();
        #[allow(clippy::cast_possible_truncation)] // it was an i64
        let exact = i128::from(left) < right as i128;
        prop_assert_eq!(test(&text), Ok(exact), "{}", text);
        prop_assert_eq!(test(&format!("{right:?} > {left}")), Ok(exact));
        prop_assert_eq!(test(&format!("{left} >= {right:?}")), Ok(!exact));
    }

    #[test]
    fn whole_numbers_are_calculated_as_rust_does_it(left in any::<i32>(), right in any::<i32>()) {
        let (left, right) = (i64::from(left), i64::from(right));
        for (sign, result) in [
            ("+", left.checked_add(right)),
            ("-", left.checked_sub(right)),
            ("*", left.checked_mul(right)),
            ("/", left.checked_div(right)),
            ("%", left.checked_rem(right)),
        ] {
            let Some(result) = result else { continue };
            prop_assert_eq!(test(&format!("{left} {sign} {right} == {result}")), Ok(true));
        }
    }
}
