"""Keys of calls: as one would write them by hand, and never the same for two lists of arguments."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.templates import key_maker

SOME_UUID = UUID("12345678-1234-5678-1234-567812345678")


class Colour(enum.Enum):
    RED = 1
    ROSE = "red"


class Shade(enum.StrEnum):
    RED = "red"


class Right(enum.IntFlag):
    READ = 1
    WRITE = 2


def plain(id, other=None):
    pass


def annotated(text: str = "", number: int = 0, uuid: UUID = SOME_UUID, day: date | None = None):
    pass


def many(first, *rest, flag=False, **options):
    pass


def key_of(key: str | Callable[..., str] | None, function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return key_maker(key, function)(bound)


class TestTemplates:
    @pytest.mark.parametrize(
        ("value", "key"),
        [
            (1, "user:1"),
            (-7, "user:-7"),
            (1.5, "user:1.5"),
            ("ada", "user:ada"),
            ("Ada Lovelace", "user:Ada Lovelace"),
            ("naïve", "user:naïve"),
            ("ada@example.org", "user:ada@example.org"),
            ("a:b", "user:a%3Ab"),
            ("50%", "user:50%25"),
            ("", "user:"),
            (None, "user:None"),
            (True, "user:True"),
            ("1", "user:'1'"),
            ("1e5", "user:'1e5'"),
            ("nan", "user:'nan'"),
            ("None", "user:'None'"),
            ("True", "user:'True'"),
            ("it's", 'user:"it\'s"'),
            ("(1,)", "user:'(1,)'"),
            (b"raw", "user:bytes(b'raw')"),
            (SOME_UUID, f"user:UUID({SOME_UUID})"),
            (Colour.RED, f"user:{__name__}.Colour(RED)"),
            (Right.READ | Right.WRITE, f"user:{__name__}.Right('READ|WRITE')"),
            ((1, "1", ("a",)), "user:(1,'1',('a'))"),
            ([1, 2], "user:[1,2]"),
            ({"b": 1, "a": [True]}, "user:{'a'=[True],'b'=1}"),
            ({2, 1}, "user:set(1,2)"),
            (frozenset({"x"}), "user:frozenset('x')"),
        ],
    )
    def test_values(self, value: object, key: str) -> None:
        assert key_of("user:{id}", plain, value) == key

    def test_annotated_parameters(self) -> None:
        """Of the annotated type a value stands as it is, and all others are marked."""
        assert key_of("user:{text}", annotated, text="42") == "user:42"
        assert key_of("user:{text}", annotated, text=42) == "user:int(42)"
        assert key_of("user:{text}", annotated, text=None) == "user:NoneType(None)"
        assert key_of("user:{text}", annotated, text="int(42)") == "user:'int(42)'"
        assert key_of("user:{number}", annotated, number=42) == "user:42"
        assert key_of("user:{number}", annotated, number="x") == "user:'x'"
        assert key_of("user:{number}", annotated, number=True) == "user:bool(True)"
        assert key_of("user:{uuid}", annotated, uuid=SOME_UUID) == f"user:{SOME_UUID}"
        assert key_of("user:{uuid}", annotated, uuid=str(SOME_UUID)) == f"user:'{SOME_UUID}'"
        assert key_of("on {day}", annotated, day=date(2026, 1, 2)) == "on date(2026-01-02)"

    def test_annotations_that_are_no_types(self) -> None:
        def odd(a: [int], b: "no such type", c: {}) -> None: ...  # type: ignore  # noqa: F722

        odd.__annotations__["a"] = [int]
        odd.__annotations__["c"] = {}
        assert key_of("{a}:{b}:{c}", odd, 1, "x", 2) == "1:x:2"

    def test_defaults_are_applied(self) -> None:
        for args, kwargs in [((1,), {}), ((1, None), {}), ((), {"id": 1}), ((), {"other": None, "id": 1})]:
            assert key_of("{id}/{other}", plain, *args, **kwargs) == "1/None"

    def test_rest_arguments(self) -> None:
        assert key_of("{first}:{rest}:{options}", many, 1, 2, "3", x=4) == "1:(2,'3'):{'x'=4}"
        assert key_of("{first}:{rest}:{options}", many, 1) == "1:():{}"

    def test_braces(self) -> None:
        assert key_of("{{{id}}}", plain, 1) == "{1}"
        assert key_of("{id}-{{{other}", plain, "a-b", 2) == "a%2Db-{2"

    def test_signs_between_fields(self) -> None:
        assert key_of("{id} and {other}", plain, "a and b", "c") != key_of("{id} and {other}", plain, "a", "b and c")
        assert key_of("{id}–{other}", plain, "a–b", "c") == "a%E2%80%93b–c"
        assert key_of("x-{id}", plain, "a-b") == "x-a-b"  # nothing to be mistaken for

    @pytest.mark.parametrize(
        ("template", "complaint"),
        [
            ("user:{idd}", r"\{idd\} is no parameter of plain; did you mean \{id\}"),
            ("user:{nothing}", "it has id, other"),
            ("user:{}", "no parameter"),
            ("user:{0}", "no parameter"),
            ("user:{id.name}", "no parameter"),
            ("user:{id[0]}", "no parameter"),
            ("user:{id!r}", "neither a format nor a conversion"),
            ("user:{id:>3}", "neither a format nor a conversion"),
            ("user:{id", "expected '}'"),
            ("user:id}", "Single '}'"),
            ("{id}{other}", "put a sign"),
            ("{id}and{other}", "put a sign"),
            ("100%:{id}", "no %"),
        ],
    )
    def test_wrong_templates(self, template: str, complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            key_maker(template, plain)

    @pytest.mark.parametrize("value", [object(), plain, 1j, type("Id", (str,), {})("x"), [object()], {1: 1j}])
    def test_values_without_an_obvious_text(self, value: object) -> None:
        with pytest.raises(TypeError, match="no text that tells it from every other"):
            key_of("user:{id}", plain, value)

    @pytest.mark.parametrize("key", [1, b"user:{id}", ["user"]])
    def test_what_is_no_key(self, key: Any) -> None:
        with pytest.raises(TypeError, match="key must be a template"):
            key_maker(key, plain)


class TestFunctions:
    def test_it_gets_the_arguments_with_defaults(self) -> None:
        assert key_of(lambda id, other: f"{id}-{other}", plain, id=1) == "1-None"
        assert key_of(lambda *args, **kwargs: f"{args} {kwargs}", many, 1, 2, x=3) == "(1, 2) {'flag': False, 'x': 3}"


class TestNoKey:
    def test_module_name_and_all_arguments(self) -> None:
        assert key_of(None, plain, 1, "a:b") == f"{__name__}.plain:1:a%3Ab"
        assert key_of(None, plain, 1) == key_of(None, plain, id=1, other=None)
        assert key_of(None, many, 1) == f"{__name__}.many:1:():False:{{}}"

    def test_without_a_name(self) -> None:
        with pytest.raises(ValueError, match="pass key="):
            key_maker(None, lambda id: id)

    def test_methods(self) -> None:
        class Users:
            def load(self, id: int) -> None: ...

        with pytest.raises(ValueError, match="is a method"):
            key_maker(None, Users.load)


# -- two lists of arguments never make one key

TEMPLATES = [
    "{a}:{b}",
    "{a}-{b}",
    "x:{b}::{a}:",
    "{a} and {b}",
    "{a}a-a{b}",
    "{a}({b})",
    "{a}'{b}",
    "{a}={b}",
    "{a},{b}",
]

SHORT = ["".join(letters) for length in range(4) for letters in product("a:-%", repeat=length)]

NASTY = [
    *(
        "",
        "None",
        "True",
        "1",
        "1.0",
        "-1",
        "nan",
        "inf",
        "1_0",
        " 1",
        "int(1)",
        "b''",
        "bytes(b'')",
        "'a'",
        '"a"',
        "a",
    ),
    *("()", "('a')", "('a','b')", "a','b", "[]", "{}", "set()", "dict()", f"UUID({SOME_UUID})", str(SOME_UUID), "RED"),
    *(
        f"{__name__}.Colour(RED)",
        f"{__name__}.Shade(RED)",
        "NoneType(None)",
        "2026-01-02",
        "date(2026-01-02)",
        "%27a%27",
    ),
    *(None, True, False, 0, 1, -1, 10, 0.0, 1.0, float("inf"), b"", b"a", SOME_UUID, Decimal(1), Decimal("1.0")),
    *(date(2026, 1, 2), datetime(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC), time(1, 2), timedelta(1)),
    *(Colour.RED, Colour.ROSE, Shade.RED, Right.READ, Right.READ | Right.WRITE),
    *((), ("a",), ("a", "b"), ("a,b",), ("a','b",), (1,), ("1",), (True,), (None,), ("None",), ((),), ([],), ("()",)),
    *(
        [],
        ["a"],
        ["a", "b"],
        [["a"], "b"],
        [["a", "b"]],
        {},
        {"a": 1},
        {"a": "1"},
        {"a=1": 1},
        {"a": {"a": 1}},
        {1: "a"},
    ),
    *(set(), {"a"}, {"a", "b"}, frozenset(), frozenset({"a"}), ({"a"},), ("set('a')",)),
]


@pytest.mark.parametrize("template", [*TEMPLATES, None])
@pytest.mark.parametrize("values", [SHORT, NASTY], ids=["short", "nasty"])
def test_no_two_pairs_of_values_make_one_key(template: str | None, values: list[object]) -> None:
    def pair(a, b):
        pass

    def typed(a: str, b: int):
        pass

    for function in (pair, typed):
        make = key_maker(template, function)
        bind = inspect.signature(function).bind
        keys = {make(bind(a, b)) for a, b in product(values, values)}
        assert len(keys) == len(values) ** 2


letters = st.text(alphabet="a1:%-'\"()[]{},=.é ", max_size=4)
words = st.sampled_from(
    ["None", "True", "1", "1.0", "nan", "int(1)", "b''", "()", "[]", "'a'", "set()", str(SOME_UUID)]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.5, -1.5, float("inf")])
    | letters
    | words
    | st.binary(max_size=2)
    | st.sampled_from([SOME_UUID, Decimal("1.0"), Decimal(1), Colour.RED, Colour.ROSE, Shade.RED, Right.READ])
    | st.sampled_from([date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC), time(1, 2), timedelta(1)])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(letters, inner, max_size=2)
        | st.frozensets(letters | st.integers(0, 2), max_size=2)
        | st.sets(letters, max_size=2)
    ),
    max_leaves=4,
)
templates = st.sampled_from([*TEMPLATES, None])


def pair(a, b):
    pass


def typed(a: str, b: UUID):
    pass


def exactly(value: object) -> object:
    """What may be told apart: 1 and True and 1.0 too."""
    if isinstance(value, list | tuple):
        return type(value), [exactly(item) for item in value]
    if isinstance(value, dict):
        return dict, sorted((repr(key), repr(exactly(item))) for key, item in value.items())
    return type(value), repr(value) if not isinstance(value, set | frozenset) else sorted(map(repr, value))


@given(template=templates, function=st.sampled_from([pair, typed]), one=st.tuples(values, values), two=st.data())
def test_different_arguments_make_different_keys(
    template: str | None, function: Callable[..., Any], one: tuple[object, object], two: st.DataObject
) -> None:
    other = two.draw(st.tuples(values, values) | values.map(lambda b: (one[0], b)) | values.map(lambda a: (a, one[1])))
    same = exactly(one) == exactly(other)
    assert (key_of(template, function, *one) == key_of(template, function, *other)) == same
