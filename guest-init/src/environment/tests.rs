//! Which variable wins, and what is left out.

use votive_protocol::{ByteList, Configure, InitializationType, limits::MOUNTS_MAX};

use super::{home, value_of, write, write_for_extension};

fn configure<'a>(environment: &'a [u8], credentials: &'a [u8]) -> Configure<'a> {
    Configure {
        realtime_ns: 0,
        memory_bytes: 128 << 20,
        uid: 993,
        gid: 990,
        mounts: [None; MOUNTS_MAX],
        network: None,
        initialization: InitializationType::OnDemand,
        account_id: "012345678912",
        function_name: "f",
        function_version: "$LATEST",
        handler: "app.handler",
        runtime: "python3.11",
        region: "eu-central-1",
        log_group: "/aws/lambda/f",
        log_stream: "2026/11/21/[$LATEST]0",
        working_directory: "",
        arguments: ByteList::default(),
        environment: ByteList::new(environment).unwrap(),
        credentials: ByteList::new(credentials).unwrap(),
    }
}

fn written(configure: &Configure<'_>) -> Vec<String> {
    let mut buffer = vec![0; 8192];
    let len = write(configure, "127.0.0.1:9001", &mut buffer).unwrap();
    let text = String::from_utf8(buffer[..len].to_vec()).unwrap();
    assert!(text.ends_with('\0'));
    text.trim_end_matches('\0').split('\0').map(str::to_owned).collect()
}

#[test]
fn every_variable_of_the_contract_is_there_once() {
    let mut variables = written(&configure(b"", b""));
    variables.sort();
    assert_eq!(
        variables,
        [
            "AWS_DEFAULT_REGION=eu-central-1",
            "AWS_EXECUTION_ENV=AWS_Lambda_python3.11",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128",
            "AWS_LAMBDA_FUNCTION_NAME=f",
            "AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/f",
            "AWS_LAMBDA_LOG_STREAM_NAME=2026/11/21/[$LATEST]0",
            "AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001",
            "AWS_REGION=eu-central-1",
            "AWS_XRAY_CONTEXT_MISSING=LOG_ERROR",
            "AWS_XRAY_DAEMON_ADDRESS=169.254.100.1:2000",
            "LAMBDA_RUNTIME_DIR=/var/runtime",
            "LAMBDA_TASK_ROOT=/var/task",
            "LANG=en_US.UTF-8",
            "LD_LIBRARY_PATH=/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:\
             /var/task/lib:/opt/lib",
            "PATH=/usr/local/bin:/usr/bin/:/bin:/opt/bin",
            "TZ=:UTC",
            "_HANDLER=app.handler",
        ]
    );
}

#[test]
fn a_function_replaces_defaults_but_not_what_says_who_runs_it() {
    let own = b"PATH=/opt/mine\0STAGE=test=1\0_HANDLER=evil\0TZ=Mars\0AWS_ACCESS_KEY_ID=own\0\
                NOVALUE\0=empty\0AWS_LAMBDA_RUNTIME_API=10.0.0.1:1\0";
    let variables = written(&configure(own, b"AWS_ACCESS_KEY_ID=AKIA\0STAGE2=x\0"));
    let with = |prefix: &str| -> Vec<&str> {
        variables.iter().filter(|one| one.starts_with(prefix)).map(String::as_str).collect()
    };
    assert_eq!(with("PATH="), ["PATH=/opt/mine"]);
    assert_eq!(with("STAGE="), ["STAGE=test=1"]);
    assert_eq!(with("_HANDLER="), ["_HANDLER=app.handler"]);
    assert_eq!(with("TZ="), ["TZ=:UTC"]);
    assert_eq!(with("AWS_ACCESS_KEY_ID="), ["AWS_ACCESS_KEY_ID=AKIA"]);
    assert_eq!(with("AWS_LAMBDA_RUNTIME_API="), ["AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001"]);
    assert_eq!(with("STAGE2="), ["STAGE2=x"]);
    assert!(with("NOVALUE").is_empty() && with("=").is_empty());
}

#[test]
fn a_container_image_says_itself_where_things_are() {
    let mut image = configure(b"", b"");
    image.runtime = "";
    image.handler = "";
    image.arguments = ByteList::new(b"app\0x\0").unwrap();
    assert!(image.is_container_image() && home(&image) == "/");
    assert_eq!(home(&configure(b"", b"")), "/var/task");
    let mut variables = written(&image);
    variables.sort();
    assert_eq!(
        variables,
        [
            "AWS_DEFAULT_REGION=eu-central-1",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128",
            "AWS_LAMBDA_FUNCTION_NAME=f",
            "AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/f",
            "AWS_LAMBDA_LOG_STREAM_NAME=2026/11/21/[$LATEST]0",
            "AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001",
            "AWS_REGION=eu-central-1",
            "AWS_XRAY_CONTEXT_MISSING=LOG_ERROR",
            "AWS_XRAY_DAEMON_ADDRESS=169.254.100.1:2000",
            "LAMBDA_TASK_ROOT=/var/task",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "TZ=:UTC",
        ]
    );
    let own = b"PATH=/app\0LD_LIBRARY_PATH=/app/lib\0LANG=C\0LAMBDA_RUNTIME_DIR=/app/run\0\
                LAMBDA_TASK_ROOT=/elsewhere\0AWS_LAMBDA_RUNTIME_API=10.0.0.1:1\0TZ=Mars\0";
    image.environment = ByteList::new(own).unwrap();
    let variables = written(&image);
    for expect in [
        "PATH=/app",
        "LD_LIBRARY_PATH=/app/lib",
        "LANG=C",
        "LAMBDA_RUNTIME_DIR=/app/run",
        "LAMBDA_TASK_ROOT=/var/task",
        "AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001",
        "TZ=:UTC",
    ] {
        let key = expect.split('=').next().unwrap();
        let found: Vec<_> =
            variables.iter().filter(|one| one.split('=').next() == Some(key)).collect();
        assert_eq!(found, [expect]);
    }
}

#[test]
fn a_nul_in_a_field_does_not_make_a_second_variable() {
    let mut hostile = configure(b"", b"");
    hostile.handler = "app.handler\0LD_PRELOAD=/tmp/x.so";
    let variables = written(&hostile);
    assert!(variables.contains(&"_HANDLER=app.handler".to_owned()));
    assert!(!variables.iter().any(|one| one.starts_with("LD_PRELOAD")));
}

#[test]
fn what_does_not_fit_is_an_error_and_not_a_cut() {
    let mut small = [0; 256];
    assert_eq!(write(&configure(b"", b""), "127.0.0.1:9001", &mut small), None);
}

#[test]
fn values_are_found_by_their_whole_key() {
    let variables = b"XPATH=/no\0PATH=/usr/bin:/bin\0";
    assert_eq!(value_of(variables, "PATH"), Some(&b"/usr/bin:/bin"[..]));
    assert_eq!(value_of(variables, "PAT"), None);
}

#[test]
fn an_extension_finds_what_is_not_the_runtimes_own() {
    let environment = b"MINE=1\0_HIDDEN=2\0PATH=/mine\0AWS_LAMBDA_EXEC_WRAPPER=/w\0";
    let credentials = b"AWS_ACCESS_KEY_ID=k\0";
    let configure = configure(environment, credentials);
    let mut buffer = vec![0; 8192];
    let len = write_for_extension(&configure, "127.0.0.1:9001", &mut buffer).unwrap();
    let text = String::from_utf8(buffer[..len].to_vec()).unwrap();
    let mut keys: Vec<&str> =
        text.split_terminator('\0').map(|item| item.split('=').next().unwrap()).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "AWS_ACCESS_KEY_ID",
            "AWS_DEFAULT_REGION",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
            "AWS_LAMBDA_FUNCTION_NAME",
            "AWS_LAMBDA_FUNCTION_VERSION",
            "AWS_LAMBDA_INITIALIZATION_TYPE",
            "AWS_LAMBDA_RUNTIME_API",
            "AWS_REGION",
            "LANG",
            "LD_LIBRARY_PATH",
            "MINE",
            "PATH",
            "TZ",
        ]
    );
    assert_eq!(value_of(text.as_bytes(), "PATH"), Some(&b"/mine"[..]));
}
