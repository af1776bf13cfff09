//! The state machine against the transitions of AWS's runtime interface emulator.

use super::{Next, NotAllowed, State, valid_error_type};

const ALL: [State; 7] = [
    State::Started,
    State::InitError,
    State::Ready,
    State::Running,
    State::InvocationResponse,
    State::InvocationErrorResponse,
    State::ResponseSent,
];

/// Asks for a step from every state: it is allowed from those that are listed, and changes nothing elsewhere.
fn check(
    step: impl Fn(&mut State) -> Result<(), NotAllowed>,
    to: State,
    allowed: &[(State, State)],
) {
    for from in ALL {
        let mut state = from;
        let result = step(&mut state);
        match allowed.iter().find(|(one, _)| *one == from) {
            Some((_, after)) => assert_eq!((result, state), (Ok(()), *after), "from {from:?}"),
            None => {
                assert_eq!((result, state), (Err(NotAllowed { from, to }), from), "from {from:?}");
            }
        }
    }
}

#[test]
fn next_is_refused_after_a_failed_init_and_while_answering() {
    let expected = [
        (State::Started, Ok(Next::InitDone), State::Ready),
        (State::Ready, Ok(Next::Again), State::Ready),
        (State::Running, Ok(Next::SameEvent), State::Running),
        (State::ResponseSent, Ok(Next::InvocationDone), State::Ready),
    ];
    for from in ALL {
        let mut state = from;
        let result = state.ask_next();
        match expected.iter().find(|(one, ..)| *one == from) {
            Some((_, next, after)) => assert_eq!((result, state), (*next, *after)),
            None => assert_eq!(
                (result, state),
                (Err(NotAllowed { from, to: State::Ready }), from),
                "from {from:?}"
            ),
        }
    }
}

#[test]
fn answers_belong_to_a_running_invocation_and_init_errors_to_the_init_phase() {
    check(State::init_error, State::InitError, &[(State::Started, State::InitError)]);
    check(State::handed_out, State::Running, &[(State::Ready, State::Running)]);
    check(
        State::response,
        State::InvocationResponse,
        &[(State::Running, State::InvocationResponse)],
    );
    check(
        State::invocation_error,
        State::InvocationErrorResponse,
        &[(State::Running, State::InvocationErrorResponse)],
    );
    check(
        State::response_sent,
        State::ResponseSent,
        &[
            (State::InvocationResponse, State::ResponseSent),
            (State::InvocationErrorResponse, State::ResponseSent),
        ],
    );
}

#[test]
fn error_types_become_what_the_emulator_makes_of_them() {
    for (given, expected) in [
        ("Runtime.ExitError", "Runtime.ExitError"),
        ("Function.Throttled", "Function.Throttled"),
        ("Runtime.MyCustomErrorTypeHere", "Runtime.MyCustomErrorTypeHere"),
        ("MyCustomError", "Runtime.Unknown"),
        ("MyCustomError.Error", "Runtime.Unknown"),
        ("Runtime.", "Runtime.Unknown"),
        ("Runtime.A", "Runtime.Unknown"),
        ("Runtime.exit", "Runtime.Unknown"),
        ("Function.", "Function.Unknown"),
        ("Function.1", "Function.Unknown"),
        ("Function.a", "Function.Unknown"),
        ("", "Runtime.Unknown"),
        // The emulator's pattern is not anchored.
        ("my.Function.Ab", "my.Function.Ab"),
        ("Runtime.Ab c", "Runtime.Ab c"),
    ] {
        assert_eq!(valid_error_type(given.as_bytes(), 64), expected, "{given}");
    }
    let long = format!("Function.{}", "A".repeat(100));
    assert_eq!(valid_error_type(long.as_bytes(), 64), "Function.Unknown");
    assert_eq!(valid_error_type(b"Runtime.Ab\xff", 64), "Runtime.Unknown");
}
