//! `routes.*.when`: a condition in CEL, the Common Expression Language, checked as far as it can be before it is used.
//!
//! Comes in: its text, and what there is on its route. Goes out: a program, or what is wrong with it and where. Only
//! names that exist may stand in it; only functions whose cost is bounded by what they are given; no loop within a loop.
//! So nothing that a client sends makes it run for long, together with the bounds on what it is given
//! (`decide::condition`). What it evaluates to is not this module's business.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use cel::{
    Env, ExecutionError, IdedExpr, Program,
    common::{
        ast::{CallExpr, EntryExpr, Expr, LiteralValue, operators},
        types::{CelBool, CelString, STRING_TYPE},
        value::CowVal,
    },
};
use ipnet::IpNet;

use super::{
    report::did_you_mean,
    template::{Placeholder, parameters},
};

/// Longest condition, in bytes.
pub const CONDITION_BYTES_MAX: usize = 4096;

/// What a condition may name beside the parameters of its path.
const FACTS: [&str; 9] =
    ["path", "claims", "method", "source", "certificate", "consumer", "roles", "scopes", "auth"];
/// Those of them that somebody has to be known for.
const OF_THE_KNOWN: [&str; 5] = ["claims", "consumer", "roles", "scopes", "auth"];

/// Functions and operators, all of which take time in proportion to what they are given.
const FUNCTIONS: [&str; 28] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::NOT_STRICTLY_FALSE,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::LESS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
    operators::IN,
    operators::INDEX,
    operators::NEGATE,
    operators::ADD,
    operators::SUBSTRACT,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "within",
    "string",
    "int",
    "uint",
    "double",
];

/// The language: the standard one without optional values, and `within`.
static LANGUAGE: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib().with_optional_support(false);
    // Neither can clash with what there is: the name is ours.
    let _ = env.add_overload("within", "within_string_string", vec![STRING_TYPE, STRING_TYPE], within);
    let _ = env.add_member_overload("within", "string_within_string", STRING_TYPE, vec![STRING_TYPE], within);
    Arc::new(env)
});

/// `routes.NAME.when`, compiled.
pub struct Condition {
    text: Arc<str>,
    program: Program,
    language: Arc<Env>,
    facts: Box<[&'static str]>,
    claims: Option<Box<[Box<str>]>>,
    parameters: Box<[(Arc<str>, Placeholder)]>,
}

/// What is wrong with a condition.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Characters of the text before it.
    pub(super) at: usize,
    /// The end of a sentence about the condition.
    pub(super) message: String,
    /// What was probably meant.
    pub(super) hint: Option<String>,
}

/// What there is on a route.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'r> {
    /// The pattern of its path.
    pub(super) pattern: &'r str,
    /// Names of all roles.
    pub(super) roles: &'r [String],
    /// Nobody is known on it.
    pub(super) is_public: bool,
}

impl Condition {
    /// Compiles a condition, or says all that is wrong with it.
    pub(super) fn compile(text: &str, there: Surroundings<'_>) -> Result<Self, Vec<Fault>> {
        let fault = |at, message: String| vec![Fault { at, message, hint: None }];
        if text.len() > CONDITION_BYTES_MAX {
            return Err(fault(0, format!("is longer than {CONDITION_BYTES_MAX} bytes")));
        }
        let language = Arc::clone(&LANGUAGE);
        let program = language.compile(text).map_err(|errors| {
            let told = |(line, column): (isize, isize), message: &str| Fault {
                at: characters_before(text, line, column),
                message: format!("cannot be read: {message}"),
                hint: None,
            };
            errors.errors.iter().map(|error| told(error.pos, &error.msg)).collect::<Vec<_>>()
        })?;
        let parameters = parameters(there.pattern);
        let mut check = Check {
            text,
            there,
            parameters: &parameters,
            program: &program,
            bound: Vec::new(),
            facts: Vec::new(),
            claims: Vec::new(),
            asks_for_all_claims: false,
            faults: Vec::new(),
        };
        check.expression(program.expression());
        let Check { mut facts, mut claims, asks_for_all_claims, faults, .. } = check;
        if !faults.is_empty() {
            return Err(faults);
        }
        facts.sort_unstable();
        facts.dedup();
        claims.sort_unstable();
        claims.dedup();
        let claims = (!asks_for_all_claims).then(|| claims.into_iter().map(Box::from).collect());
        let parameters = parameters.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Ok(Self { text: text.into(), program, language, facts: facts.into(), claims, parameters })
    }

    /// One that is known to be good.
    #[cfg(test)]
    pub(crate) fn for_tests(text: &str, pattern: &str, roles: &[String]) -> Self {
        let there = Surroundings { pattern, roles, is_public: false };
        Self::compile(text, there).unwrap_or_else(|faults| panic!("{text}: {faults:?}"))
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it names this one of [`FACTS`].
    pub fn asks_for(&self, fact: &str) -> bool {
        self.facts.contains(&fact)
    }

    /// Which claims it can see, where it names each of them; none: it asks for them as a whole.
    pub fn claims(&self) -> Option<&[Box<str>]> {
        self.claims.as_deref()
    }

    /// What `path` holds: the parameters of the route's path.
    pub fn parameters(&self) -> &[(Arc<str>, Placeholder)] {
        &self.parameters
    }

    /// What evaluates.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What its functions are.
    pub fn language(&self) -> &Arc<Env> {
        &self.language
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.parameters == other.parameters
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.text).finish()
    }
}

/// One walk over an expression.
struct Check<'c> {
    text: &'c str,
    there: Surroundings<'c>,
    parameters: &'c [(&'c str, Placeholder)],
    program: &'c Program,
    /// Names that loops around have given to what they go over; more than none: it is within a loop.
    bound: Vec<&'c str>,
    facts: Vec<&'static str>,
    /// Members of `claims` that are named as `claims.NAME`.
    claims: Vec<&'c str>,
    asks_for_all_claims: bool,
    faults: Vec<Fault>,
}

impl<'c> Check<'c> {
    fn expression(&mut self, expression: &'c IdedExpr) {
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => {
                self.name(expression, name);
                self.asks_for_all_claims |= name == "claims";
            }
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(name) if name == "path" && !self.bound.contains(&"path") => {
                    self.facts.push("path");
                    self.parameter(expression, &select.field);
                }
                Expr::Ident(name) if name == "claims" && !self.bound.contains(&"claims") => {
                    self.name(&select.operand, name);
                    self.claims.push(&select.field);
                }
                _ => self.expression(&select.operand),
            },
            Expr::Call(call) => self.call(expression, call),
            Expr::List(list) => list.elements.iter().for_each(|element| self.expression(element)),
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.expression(&entry.key);
                        self.expression(&entry.value);
                    }
                }
            }
            Expr::Comprehension(of) => {
                self.expression(&of.iter_range);
                if !self.bound.is_empty() {
                    self.fault(expression, "has a loop within a loop, whose time has no good bound", None);
                    return;
                }
                self.expression(&of.accu_init);
                self.bound = vec![&of.iter_var, &of.accu_var];
                self.bound.extend(of.iter_var2.as_deref());
                for inner in [&of.loop_cond, &of.loop_step, &of.result] {
                    self.expression(inner);
                }
                self.bound.clear();
            }
            Expr::Struct(_) => self.fault(expression, "makes an object of a type, and there are none", None),
        }
    }

    fn name(&mut self, expression: &IdedExpr, name: &str) {
        if self.bound.contains(&name) {
            return;
        }
        let Some(fact) = FACTS.iter().find(|fact| **fact == name) else {
            let message = format!("names `{name}`, which is nothing that a condition can ask for");
            let hint =
                did_you_mean(name, &FACTS).or_else(|| Some(format!("there are: {}", FACTS.join(", "))));
            self.fault(expression, &message, hint);
            return;
        };
        if self.there.is_public && OF_THE_KNOWN.contains(fact) {
            self.fault(
                expression,
                &format!("asks for `{name}`, but on a public route nobody is known"),
                None,
            );
        }
        self.facts.push(fact);
    }

    fn parameter(&mut self, expression: &IdedExpr, name: &str) {
        let known: Vec<&str> = self.parameters.iter().map(|(known, _)| *known).collect();
        if !known.contains(&name) {
            let message = format!("names `path.{name}`, which is no parameter of the route's path");
            self.fault(expression, &message, did_you_mean(name, &known));
        }
    }

    fn call(&mut self, expression: &'c IdedExpr, call: &'c CallExpr) {
        let name = call.func_name.as_str();
        if !FUNCTIONS.contains(&name) {
            let message = format!("calls `{name}`, which there is not");
            self.fault(expression, &message, did_you_mean(name, &FUNCTIONS));
        }
        for argument in call.target.iter().map(|target| &**target).chain(&call.args) {
            self.expression(argument);
        }
        match (name, call.args.as_slice()) {
            // Where both are known now, a slip of the pen would only show as a refusal.
            ("within", [.., prefix])
                if literal(prefix).is_none_or(|prefix| prefix.parse::<IpNet>().is_err()) =>
            {
                self.fault(prefix, "wants a prefix such as \"192.0.2.0/24\" in `within`", None);
            }
            (operators::IN, [role, list]) => {
                if let (Some(name), Expr::Ident(list)) = (literal(role), &list.expr)
                    && list == "roles"
                    && !self.there.roles.iter().any(|known| known == name)
                {
                    let hint = did_you_mean(name, self.there.roles);
                    self.fault(role, &format!("asks for the role `{name}`, which there is not"), hint);
                }
            }
            (operators::INDEX, [of, name]) => {
                if let (Expr::Ident(of), Some(name)) = (&of.expr, literal(name))
                    && of == "path"
                {
                    self.parameter(expression, name);
                }
            }
            _ => {}
        }
    }

    fn fault(&mut self, expression: &IdedExpr, message: &str, hint: Option<String>) {
        let place = self.program.source_info().offset_for(expression.id);
        let start = place.map_or(0, |(start, _)| usize::try_from(start).unwrap_or(0));
        let before = self.text.get(..start).unwrap_or_default();
        self.faults.push(Fault { at: before.chars().count(), message: message.to_owned(), hint });
    }
}

fn literal(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

/// Of a line and a column, both from 1.
fn characters_before(text: &str, line: isize, column: isize) -> usize {
    let from_zero = |number: isize| usize::try_from(number - 1).unwrap_or(0);
    let lines = text.split_inclusive('\n').take(from_zero(line)).map(|line| line.chars().count());
    (lines.sum::<usize>() + from_zero(column)).min(text.chars().count())
}

/// Whether an address lies in a prefix.
#[expect(clippy::needless_pass_by_value, reason = "the shape of a function of the language")]
fn within<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let text = |at: usize| {
        let value = arguments.get(at).and_then(|value| value.downcast_ref::<CelString<'_>>());
        value.map(|text| text.inner().to_owned()).unwrap_or_default()
    };
    let wrong = |what: &str| ExecutionError::function_error("within", what);
    let address: std::net::IpAddr = text(0).parse().map_err(|_| wrong("not an address"))?;
    let prefix: IpNet = text(1).parse().map_err(|_| wrong("not a prefix"))?;
    Ok(CowVal::owned(CelBool::from(prefix.contains(&address))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str, is_public: bool) -> Result<Condition, Vec<Fault>> {
        let roles = ["clerk".to_owned(), "support".to_owned()];
        Condition::compile(text, Surroundings { pattern: "/v1/{id}/{*rest}", roles: &roles, is_public })
    }

    #[track_caller]
    fn accepts(text: &str, facts: &[&str]) {
        let condition = compile(text, false).unwrap_or_else(|faults| panic!("{text}: {faults:?}"));
        assert_eq!(&*condition.facts, facts, "{text}");
    }

    /// Expected: where, a part of the message, and of the hint.
    #[track_caller]
    fn refuses(text: &str, expected: &[(usize, &str, &str)]) {
        let Err(faults) = compile(text, false) else { panic!("{text} is accepted") };
        assert_eq!(faults.len(), expected.len(), "{text}: {faults:?}");
        for (fault, (at, message, hint)) in faults.iter().zip(expected) {
            assert_eq!(fault.at, *at, "{text}: {fault:?}");
            assert!(fault.message.contains(message), "{text}: {fault:?}");
            assert!(fault.hint.as_deref().unwrap_or_default().contains(hint), "{text}: {fault:?}");
        }
    }

    #[test]
    fn claims_that_are_named_are_known_beforehand() {
        let named = |text: &str| {
            let condition = Condition::for_tests(text, "/v1/{id}", &[]);
            condition.claims().map(|claims| claims.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let some = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(named("method == 'GET'"), some(&[]));
        assert_eq!(
            named("claims.sub == path.id || has(claims.org) && claims.org.id == claims.sub"),
            some(&["org", "sub"])
        );
        assert_eq!(named("claims.groups.exists(group, group == claims.sub)"), some(&["groups", "sub"]));
        for whole in ["claims['sub'] == claims.org", "'sub' in claims", "claims.exists(name, name == 'sub')"]
        {
            assert_eq!(named(whole), None, "{whole}");
        }
    }

    #[test]
    fn what_exists_may_be_named() {
        accepts("path.id == claims.sub || 'support' in roles", &["claims", "path", "roles"]);
        accepts("path['rest'] != ''", &["path"]);
        accepts("method == 'GET' && source.within('192.0.2.0/24')", &["method", "source"]);
        accepts("within(source, '2001:db8::/32')", &["source"]);
        accepts("has(claims.department) && claims.department in ['a', 'b']", &["claims"]);
        accepts("claims.groups.exists(group, group.startsWith('team-'))", &["claims"]);
        accepts("certificate != null && 'a.example' in certificate.dns", &["certificate"]);
        accepts("consumer == 'acme' && size(scopes) > 1 && auth != 'keys'", &["auth", "consumer", "scopes"]);
        accepts("claims.level >= 3 ? true : int(claims.level) == 2", &["claims"]);
        accepts("claims.a.all(x, x > 0) && claims.b.exists_one(y, y == 1)", &["claims"]);
        accepts("true", &[]);
    }

    #[test]
    fn what_does_not_exist_is_told_with_its_place() {
        refuses("path.idd == claims.sub", &[(4, "path.idd", "did you mean `id`?")]);
        refuses("true && path['x'] == ''", &[(12, "path.x", "")]);
        refuses("cliams.sub == ''", &[(0, "`cliams`", "did you mean `claims`?")]);
        refuses("user == 'a'", &[(0, "`user`", "there are: path, claims")]);
        refuses("'suport' in roles", &[(0, "the role `suport`", "did you mean `support`?")]);
        refuses("size(claims.sub.matches('a+'))", &[(23, "calls `matches`", "")]);
        refuses("source.within('192.0.2.0/33')", &[(14, "wants a prefix", "")]);
        refuses("source.within(claims.network)", &[(20, "wants a prefix", "")]);
        refuses("x == y", &[(0, "`x`", ""), (5, "`y`", "")]);
        refuses("claims.a.exists(x, x == z)", &[(24, "`z`", "")]);
        // What a loop has named is gone behind it.
        refuses("claims.a.exists(x, x == 1) && x == 1", &[(30, "`x`", "")]);
    }

    #[test]
    fn what_is_no_expression_is_told_with_its_place() {
        refuses("path.id ==", &[(10, "cannot be read", "")]);
        refuses("", &[(0, "cannot be read", "")]);
        assert!(compile("claims.?sub == 'a'", false).is_err(), "nor are optional values");
    }

    #[test]
    fn a_loop_within_a_loop_is_refused() {
        refuses("claims.a.all(x, claims.b.all(y, x == y))", &[(28, "a loop within a loop", "")]);
        refuses("claims.a.map(x, claims.b.filter(y, x == y)) == []", &[(31, "a loop within a loop", "")]);
        accepts("claims.a.filter(x, x > 1).all(y, y < 5)", &["claims"]);
    }

    /// Just inside, and one past it.
    #[test]
    fn a_condition_has_an_end() {
        let text = |bytes: usize| format!("claims.sub == '{}'", "a".repeat(bytes - 16));
        assert!(compile(&text(CONDITION_BYTES_MAX), false).is_ok());
        let faults = compile(&text(CONDITION_BYTES_MAX + 1), false).expect_err("too long");
        assert!(faults[0].message.contains("longer than 4096"), "{faults:?}");
        assert!(compile(&"(".repeat(2000), false).is_err(), "nor is its depth without a bound");
    }

    #[test]
    fn on_a_public_route_nobody_is_known() {
        assert!(compile("source.within('192.0.2.0/24') || certificate != null", true).is_ok());
        for fact in OF_THE_KNOWN {
            let faults = compile(&format!("{fact} == null"), true).expect_err("nobody is known");
            assert!(faults[0].message.contains("nobody is known"), "{faults:?}");
        }
    }
}
