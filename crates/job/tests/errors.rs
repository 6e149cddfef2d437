//! Mistakes in a job file are answered with their place and a way out.

use std::collections::BTreeMap;

use plexus_job::{Code, compile};

const GOOD: &str = r#"version = 1
name = "double"

[kernels.double]
file = "double.wgsl"
overrides = { WIDTH = 64 }

[inputs.x]
file = "x.csv"
split = { axis = 0, size = 2 }

[inputs.factor]
value = 2

[outputs.y]
dtype = "f32"
shape = [2, 3]
compare = { abs = 1e-3 }
join = { file = "y.csv" }

[[passes]]
kernel = "double"
bind = ["x", "factor", "y"]
dispatch = ["ceil(6/WIDTH)", 1, 1]

[verify]
policy = "audit"
rate_min = 0.1

[pay]
unit_price = "0.001"
"#;

fn files() -> BTreeMap<&'static str, &'static [u8]> {
    BTreeMap::from([
        ("double.wgsl", &b"@compute @workgroup_size(WIDTH) fn main() {}"[..]),
        ("x.csv", b"1,2,3\n4,5,6\n7,8,9\n"),
        ("bad.csv", b"1,2\n3,x\n"),
        ("raw.bin", &[0; 10]),
        ("noise.png", b"not a picture"),
    ])
}

/// Replaces `from` in the good file and expects one error, whose place is where `at` stands in the result.
#[track_caller]
fn check(from: &str, to: &str, at: &str, code: Code, message: &str, fix: &str) {
    assert!(GOOD.contains(from), "{from:?} is not in the file");
    let text = GOOD.replacen(from, to, 1);
    let error = compile(&text, "job.toml", &files()).expect_err("this is a mistake");
    let place = text.find(at).expect("the place is in the text");
    let line = text[..place].matches('\n').count() + 1;
    let column = place - text[..place].rfind('\n').map_or(0, |end| end + 1) + 1;
    assert_eq!((error.line() as usize, error.column() as usize), (line, column), "{error}");
    assert_eq!(error.code(), code, "{error}");
    assert!(error.message().contains(message), "{error}");
    assert!(error.fix().unwrap_or_default().contains(fix), "{error}");
    assert!(error.to_string().starts_with(&format!("job.toml:{line}:{column}: ")));
}

#[test]
fn the_good_file_compiles() {
    let job = compile(GOOD, "job.toml", &files()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(job.units, 2);
}

#[test]
fn an_error_shows_the_line_with_a_caret() {
    let text = GOOD.replacen("file = \"x.csv\"", "fiel = \"x.csv\"", 1);
    let error = compile(&text, "jobs/a.toml", &files()).unwrap_err();
    let expected = "jobs/a.toml:9:1: there is no key \"fiel\" here\n  |\n9 | fiel = \"x.csv\"\n  | ^^^^\n  = help: did you mean \"file\"?";
    assert_eq!(error.to_string(), expected);
    assert_eq!((error.file(), error.code().as_str()), ("jobs/a.toml", "job_file_unknown_key"));
}

#[test]
fn what_is_not_toml_is_a_syntax_error() {
    check("name = \"double\"", "name = double", "double", Code::Syntax, "", "");
    check("[kernels.double]", "[kernels.double", "\nfile", Code::Syntax, "", "");
    check("version = 1", "version = 1\nversion = 1", "version = 1\nname", Code::Syntax, "duplicate key", "");
}

#[test]
fn unknown_keys_name_the_nearest() {
    use Code::UnknownKey;
    check("[pay]", "[pey]", "pey", UnknownKey, "\"pey\"", "did you mean \"pay\"?");
}

#[test]
fn values_of_the_wrong_type_are_refused() {
    use Code::Value;
    check("size = 2", "size = \"2\"", "\"2\"", Value, "invalid type", "");
    check("size = 2", "size = -2", "-2", Value, "invalid value", "");
    check("WIDTH = 64", "WIDTH = \"fast\"", "\"fast\"", Value, "or \"auto\"", "");
    check("unit_price = \"0.001\"", "unit_price = 0.001", "0.001", Value, "in quotes", "");
    check("\"f32\"", "\"f64\"", "\"f64\"", Value, "\"f64\" is not one of the values", "\"f32\"");
    check("{ abs = 1e-3 }", "\"close\"", "\"close\"", Value, "a tolerance such as", "");
}

#[test]
fn missing_keys_are_named() {
    use Code::MissingKey;
    check("kernel = \"double\"\n", "", "[[passes]]", MissingKey, "\"kernel\" is missing", "");
}

#[test]
fn names_must_exist() {
    use Code::Value;
    check("kernel = \"double\"", "kernel = \"doubel\"", "\"doubel\"", Value, "no kernel", "\"double\"");
    check("\"factor\", \"y\"", "\"facter\", \"y\"", "\"facter\"", Value, "no buffer", "\"factor\"");
    check("ceil(6/WIDTH)", "ceil(6/WITH)", "\"ceil(6/WITH)\"", Value, "not an override", "\"WIDTH\"");
    check("ceil(6/WIDTH)", "ceil(6)", "\"ceil(6)\"", Value, "ceil takes a division", "");
    check("ceil(6/WIDTH)", "6/(WIDTH-64)", "\"6/(WIDTH-64)\"", Value, "range", "");
    check("[outputs.y]", "[outputs.x]", "x]\ndtype", Value, "already a buffer named \"x\"", "share one set");
    check("[inputs.factor]", "[inputs.\"2 x\"]", "\"2 x\"", Value, "is not a name", "letters");
}

#[test]
fn files_that_cannot_be_read_say_why() {
    use Code::File;
    check("x.csv", "z.csv", "\"z.csv\"", File, "no such file", "relative to the folder");
    check("x.csv", "bad.csv", "\"bad.csv\"", File, "line 2, column 2 is \"x\"", "");
    check("x.csv", "noise.png", "\"noise.png\"", File, "not a whole .png file", "");
    check("double.wgsl", "raw.wgsl", "\"raw.wgsl\"", File, "no such file", "");
    check("x.csv", "raw.bin", "\"raw.bin\"", Code::MissingKey, "needs dtype and shape", "dtype = \"f32\"");
    let raw = "raw.bin\"\ndtype = \"f32\"\nshape = [3]\n";
    check("x.csv\"\n", raw, "\"raw.bin\"", File, "has 10 bytes; f32 [3] needs 12", "");
    let raw = "raw.bin\"\ndtype = \"f32\"\nshape = [2]\nlength = 9\n";
    check("x.csv\"\n", raw, "9\nsplit", Code::Value, "8 bytes, not 9", "");
    check("x.csv\"\n", "x.csv\"\noffset = 4\n", "4\nsplit", Code::Value, "raw files", "");
    check(
        "x.csv\"\n",
        "x.csv\"\ndtype = \"u8\"\nshape = [9, 2]\n",
        "[9, 2]",
        Code::Value,
        "9 numbers do not fill",
        "[3, 3]",
    );
}

#[test]
fn an_input_has_one_source_and_only_its_keys() {
    use Code::Value;
    check("value = 2", "value = 2\nfile = \"x.csv\"", "2\nfile", Value, "two sources", "exactly one");
    check("value = 2", "dtype = \"u8\"", "factor]", Value, "no source", "exactly one");
    check(
        "value = 2",
        "value = 2\nsplit = { axis = 0, size = 1 }",
        "{ axis = 0, size = 1 }",
        Value,
        "no meaning",
        "",
    );
    check(
        "value = 2",
        "value = 2.5\ndtype = \"u8\"",
        "2.5",
        Value,
        "element 0 is 2.5, which u8 cannot hold",
        "",
    );
    check("value = 2", "value = []", "[]", Value, "no number", "");
    check(
        "size = 2 }\n",
        "size = 2 }\nresident = \"x\"\n",
        "\"x\"\n\n[inputs.factor]",
        Value,
        "cannot stay",
        "",
    );
}

#[test]
fn a_job_is_cut_in_one_way() {
    use Code::Value;
    check("axis = 0", "axis = 2", "2, size", Value, "no axis 2: the shape is [3, 3]", "");
    check("size = 2", "size = 0", "0 }", Value, "at least 1", "");
    check(
        "axis = 0, size = 2",
        "axis = 0",
        "{ axis = 0 }",
        Value,
        "either axis and size, or tile",
        "axis = 0, size = 16",
    );
    check(
        "value = 2",
        "sweep = [1, 2]",
        "{ axis",
        Value,
        "\"x\" is split along an axis, but \"factor\" is a sweep",
        "one way",
    );
    let tiles = "tiles = { width = 8, height = 8, tile = [4, 4] }";
    check(
        "value = 2",
        tiles,
        "{ width",
        Value,
        "\"factor\" is split into tiles, but \"x\" is split along an axis",
        "",
    );
    let other = "file = \"x.csv\"\nsplit = { axis = 0, size = 1 }";
    check(
        "value = 2",
        other,
        "{ axis = 0, size = 1 }",
        Value,
        "\"factor\" makes 3 units and \"x\" makes 2",
        "",
    );
    let tiles = "tiles = { width = 8, height = 8, tile = [9, 4] }";
    check("value = 2", tiles, "[9, 4]", Value, "larger than 8 × 8", "tile = [width, height]");
}

#[test]
fn sweeps_lead_somewhere_and_are_bounded() {
    use Code::{Limit, Value};
    let check = |sweep: &str, code, message| {
        let text = format!("sweep = {sweep}");
        let good = GOOD.replacen("split = { axis = 0, size = 2 }\n", "", 1).replacen("value = 2", &text, 1);
        let error = compile(&good, "job.toml", &files()).unwrap_err();
        assert_eq!((error.code(), error.line(), error.column()), (code, 12, 9), "{error}");
        assert!(error.message().contains(message), "{error}");
    };
    check("{ from = 1, to = 0 }", Value, "does not lead");
    check("{ from = 0, to = 1, step = 0 }", Value, "does not lead");
    check("{ from = 0, to = 1, step = 1, count = 2 }", Value, "either a step or a count");
    check("{ from = 0, to = 1, count = 3, log = true }", Value, "positive ends");
    check("{ from = 1, to = 2, log = true }", Value, "needs a count");
    check("{ from = 0, to = 1, count = 0 }", Value, "no units");
    check("{ from = 0, to = 1, step = 1e-9 }", Limit, "at most 10000000");
    check("{ from = 0, to = inf }", Value, "finite ends");
    check("[1e300]", Value, "f32 cannot hold");
}

#[test]
fn outputs_and_joins_must_fit() {
    use Code::Value;
    check("shape = [2, 3]", "shape = [2, 0]", "[2, 0]", Value, "each at least 1", "");
    check("shape = [2, 3]", "shape = [65536, 65536]", "[65536", Code::Limit, "1 GiB", "");
    check("y.csv", "y.txt", "\"y.txt\"", Value, "what kind of file", ".csv, .npy or .png");
    check("y.csv", "../y.csv", "\"../y.csv\"", Value, "plain file name", "");
    let columns = "{ file = \"y.csv\", columns = [\"a\"] }";
    check("{ file = \"y.csv\" }", columns, "[\"a\"]", Value, "3 numbers, and there are 1 column", "");
    let expect = "{ file = \"y.csv\", expect = \"x.csv\" }";
    let text = GOOD.replacen("{ file = \"y.csv\" }", expect, 1);
    assert!(compile(&text, "job.toml", &files()).is_ok(), "as many rows as the input");
    let text = text.replacen("shape = [2, 3]", "shape = [2]", 1);
    let error = compile(&text, "job.toml", &files()).unwrap_err();
    assert!(error.message().contains("9 numbers, and the result has 3"), "{error}");
    check(
        "{ file = \"y.csv\" }",
        "{ file = \"y.npy\", layout = \"tiles\" }",
        "\"tiles\"",
        Value,
        "in tiles",
        "",
    );
    check("\"f32\"", "\"i32\"", "{ abs", Value, "integers are the same", "exact");
    check("abs = 1e-3", "abs = -1.0", "{ abs", Value, "not negative", "");
    check(
        "abs = 1e-3",
        "abs = 0, outlier_max = 0.1",
        "outlier_max",
        Code::UnknownKey,
        "",
        "\"outliers_max\"",
    );
}

#[test]
fn the_rest_is_checked_too() {
    use Code::Value;
    check("version = 1", "version = 2", "2", Value, "version 2", "version = 1");
    check("\"double\"", "\"dou ble\"", "\"dou ble\"", Value, "a job's name", "");
    check("dispatch = [\"ceil(6/WIDTH)\", 1, 1]", "dispatch = []", "[]\n", Value, "one to three", "");
    check("rate_min = 0.1", "rate_min = 1.5", "1.5", Value, "a share, 0 to 1", "");
    check("rate_min = 0.1", "agree = 2", "2\n\n[pay]", Value, "belongs to the policy \"quorum\"", "");
    check(
        "policy = \"audit\"\nrate_min = 0.1",
        "policy = \"quorum\"\nagree = 9",
        "9\n\n[pay]",
        Value,
        "2 to 5",
        "",
    );
    check("\"0.001\"", "\"1e-3\"", "\"1e-3\"", Value, "expected a decimal number", "");
    check("[pay]", "[schedule]\npackage_units = 0\n[pay]", "0\n[pay]", Value, "at least one unit", "");
    check("[pay]", "[schedule]\ndevices = 65\n[pay]", "65\n[pay]", Value, "1 to 64 devices", "");
    check("[pay]", "[schedule]\nreplicas = 6\n[pay]", "6\n[pay]", Value, "1 to 5 replicas", "");
    check("version = 1", "version = 1\nattempts_max = 21", "21", Value, "1 to 20 times", "");
    check("version = 1", "version = 1\ndeadline_s = 0", "0", Value, "at least a second", "");
    check(
        "[pay]",
        "[pay]\nroyalty = { account = \"me\", bps = 5 }",
        "\"me\"",
        Value,
        "no wallet's address",
        "wallet show",
    );
    let both = "[schedule]\nreplicas = 2\ndevices = 2\n[pay]";
    check("[pay]", both, "2\ndevices", Value, "a package of its own", "");
}
