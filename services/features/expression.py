"""SQL aggregate expressions, checked against an allow-list before any engine sees them.

The text is parsed, every node of the tree must be of a kind listed here, and the engine gets SQL written from the
checked tree, never the caller's text: what was checked is what runs. Rules:

- One aggregate expression: no subquery, table, window, ordering, parameter or statement; no function that is not
  listed, and none that depends on the clock, on chance or on the order of rows.
- Every column is one of the dataset's, unqualified and inside exactly one aggregate. `event_time` names the dataset's
  event time, unless the dataset has a column of that name.
- Outcome columns are for labels, never for features.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from hedgerow.errors import InvalidArgumentError
from services.features.source import SourceContract

EVENT_TIME = "event_time"
MAX_LENGTH = 1_000
MAX_NODES = 200
DIALECT = "duckdb"

_AGGREGATES: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.ArgMax,
        exp.ArgMin,
        exp.Avg,
        exp.Corr,
        exp.Count,
        exp.CountIf,
        exp.LogicalAnd,
        exp.LogicalOr,
        exp.Max,
        exp.Median,
        exp.Min,
        exp.PercentileCont,
        exp.RegrSlope,
        exp.Stddev,
        exp.StddevPop,
        exp.StddevSamp,
        exp.Sum,
        exp.Variance,
        exp.VariancePop,
    }
)
# The forms that keep a null at the extreme row; the parser knows them by name only.
_NAMED_AGGREGATES = frozenset({"arg_max_null", "arg_min_null"})
_SCALARS: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.Abs,
        exp.Add,
        exp.And,
        exp.Between,
        exp.Boolean,
        exp.Case,
        exp.Ceil,
        exp.Coalesce,
        exp.Column,
        exp.DateDiff,
        exp.Div,
        exp.EQ,
        exp.Exp,
        exp.Extract,
        exp.Floor,
        exp.GT,
        exp.GTE,
        exp.Greatest,
        exp.Identifier,
        exp.If,
        exp.In,
        exp.IntDiv,
        exp.Is,
        exp.LT,
        exp.LTE,
        exp.Least,
        exp.Literal,
        exp.Ln,
        exp.Mod,
        exp.Mul,
        exp.NEQ,
        exp.Neg,
        exp.Not,
        exp.Null,
        exp.Nullif,
        exp.Or,
        exp.Paren,
        exp.Round,
        exp.Sign,
        exp.Sqrt,
        exp.Sub,
        exp.TimeToUnix,
    }
)
_CAST_TARGETS = frozenset({exp.DType.BIGINT, exp.DType.BOOLEAN, exp.DType.DOUBLE, exp.DType.INT})
_UNITS = frozenset({"SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR"})


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression.

    Attributes:
        sql: DuckDB SQL written from the checked tree.
        columns: the dataset's columns it reads.
    """

    sql: str
    columns: frozenset[str]


def compile_expression(text: str, contract: SourceContract, *, field: str, outcomes_allowed: bool) -> Expression:
    """Check an expression and return its safe form.

    Args:
        text: the caller's SQL.
        contract: of the dataset whose rows it aggregates.
        field: path of the request field, named in errors.
        outcomes_allowed: whether outcome columns may be read.

    Raises:
        InvalidArgumentError: it breaks a rule of this module; the field is named.
    """
    tree = _parse(text, field)
    for node in tree.walk():
        _check_node(node, field)
    columns = {_resolve(column, contract, field, outcomes_allowed) for column in list(tree.find_all(exp.Column))}
    if not any(_is_aggregate(node) for node in tree.walk()):
        raise invalid(field, "expected an aggregate over the rows in the window, such as max(column)")
    return Expression(sql=tree.sql(DIALECT, comments=False), columns=frozenset(columns))


def invalid(field: str, what: str) -> InvalidArgumentError:
    """Return the error for one field."""
    return InvalidArgumentError(f"{field}: {what}", fields={field: what})


def _parse(text: str, field: str) -> exp.Expr:
    if not text.strip():
        raise invalid(field, "is empty; expected a SQL aggregate, such as max(column)")
    if len(text) > MAX_LENGTH:
        raise invalid(field, f"is longer than {MAX_LENGTH} characters")
    try:
        # In a parenthesis the parser takes one expression and nothing else; it would forgive a missing ")" at the very
        # end, so the last one is ours. The newline ends a comment.
        statements = sqlglot.parse(f"SELECT ({text}\n)", read=DIALECT)
    except (SqlglotError, RecursionError) as error:
        raise invalid(field, "is not a SQL expression that can be parsed") from error
    select = statements[0]
    if (
        len(statements) != 1
        or not isinstance(select, exp.Select)
        or {name for name, value in select.args.items() if value} != {"expressions"}
        or [type(each) for each in select.expressions] != [exp.Paren]
    ):
        raise invalid(field, "must be one expression, without clauses or further statements")
    tree: exp.Expr = select.expressions[0].this
    tree.pop()
    if sum(1 for _ in tree.walk()) > MAX_NODES:
        raise invalid(field, f"has more than {MAX_NODES} parts; split it into several features")
    return tree


def _is_aggregate(node: exp.Expr) -> bool:
    return type(node) in _AGGREGATES or (isinstance(node, exp.Anonymous) and node.name.lower() in _NAMED_AGGREGATES)


def _check_node(node: exp.Expr, field: str) -> None:
    if _is_aggregate(node):
        if any(_is_aggregate(above) or isinstance(above, exp.Where) for above in _ancestors(node)):
            raise invalid(field, "an aggregate inside an aggregate is not allowed")
        return
    if type(node) in _SCALARS:
        if isinstance(node, exp.DateDiff | exp.Extract):
            _check_unit(node, field)
        return
    if not _allowed_in_place(node):
        raise invalid(field, f"{_describe(node)} is not allowed in an expression")


def _allowed_in_place(node: exp.Expr) -> bool:
    """Whether a node that is safe only in certain places stands in one of them."""
    above = node.parent
    match node:
        case exp.Star():
            return isinstance(above, exp.Count)
        case exp.Distinct():
            # The sum of distinct floats would depend on the order in which the engine meets them; a count does not.
            return isinstance(above, exp.Count)
        case exp.Filter():
            return _is_aggregate(node.this)
        case exp.Where():
            return isinstance(above, exp.Filter)
        case exp.Cast():
            return node.to.this in _CAST_TARGETS
        case exp.DataType():
            return isinstance(above, exp.Cast)
        case exp.Var():
            return isinstance(above, exp.DateDiff | exp.Extract)
    return False


def _check_unit(node: exp.DateDiff | exp.Extract, field: str) -> None:
    unit = node.args["unit"] if isinstance(node, exp.DateDiff) else node.this
    if unit is None or unit.name.upper() not in _UNITS:
        raise invalid(field, f"a unit of time must be one of {', '.join(sorted(_UNITS)).lower()}")


def _resolve(column: exp.Column, contract: SourceContract, field: str, outcomes_allowed: bool) -> str:
    """Check a column, put its quoted form into the tree, and return its name."""
    if column.table:
        raise invalid(field, f"column {column.name!r} must stand without a qualifier")
    name = column.name.lower()
    if name == EVENT_TIME and contract.column(name) is None:
        name = contract.event_time_column
    known = contract.column(name)
    if known is None:
        choices = ", ".join(each.name for each in contract.columns if outcomes_allowed or not each.outcome)
        raise invalid(field, f"{contract.dataset} has no column {column.name!r}; it has {choices}")
    if known.outcome and not outcomes_allowed:
        raise invalid(field, f"column {name!r} is an outcome, which only a label may read")
    aggregates = [above for above in _ancestors(column) if _is_aggregate(above) or isinstance(above, exp.Filter)]
    if not aggregates:
        raise invalid(field, f"column {name!r} must be inside an aggregate, such as max({name})")
    column.set("this", exp.to_identifier(name, quoted=True))
    return name


def _ancestors(node: exp.Expr) -> list[exp.Expr]:
    found: list[exp.Expr] = []
    above = node.parent
    while above is not None:
        found.append(above)
        above = above.parent
    return found


def _describe(node: exp.Expr) -> str:
    if isinstance(node, exp.Anonymous):
        return f"function {node.name.lower()}"
    if isinstance(node, exp.Func):
        return f"function {node.sql_name().lower()}"
    return f"{type(node).key.upper()}"
