"""The ids of steps and the names of maps, against a plain model that names each step when it is added."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from pfw.errors import DuplicateStepError
from pfw.names import Names

#: Names that collide with ids which pfw makes, as much as names can.
NAMES = ("f", "f#2", "f#3", "f#2#2", "m", "m[0]", "m#2", "m#2[0]", "m[0]#2", "#", "]")


@dataclass
class Model:
    ids: list[str] = field(default_factory=list)
    maps: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)

    def is_taken(self, name: str) -> bool:
        return name in self.ids or name in self.maps

    def numbered(self, name: str) -> str:
        while True:
            self.last[name] = self.last.get(name, 1) + 1
            if not self.is_taken(found := f"{name}#{self.last[name]}"):
                return found

    def free(self, name: str) -> str:
        return self.numbered(name) if self.is_taken(name) else name

    def add_map(self, name: str, count: int) -> None:
        found = self.free(name)
        while any(f"{found}[{number}]" in self.ids for number in range(count)):
            found = self.numbered(name)
        self.maps[found] = count
        self.ids += [f"{found}[{number}]" for number in range(count)]


uses = st.lists(st.sampled_from(NAMES), min_size=1, max_size=6)
counts = st.integers(0, 2)
operations = st.one_of(
    st.tuples(st.just("uses"), uses, st.just(0)),
    st.tuples(st.just("id"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("map"), st.sampled_from(NAMES), counts),
    st.tuples(st.just("map with an id"), st.sampled_from(NAMES), counts),
)


@given(st.lists(operations, max_size=12))
def test_names_are_those_of_a_plain_model(plan: list[tuple[str, str | list[str], int]]) -> None:
    names, model = Names(), Model()
    for what, given_names, count in plan:
        if isinstance(given_names, list):
            names.add_uses(given_names)
            for name in given_names:
                model.ids.append(model.free(name))
        elif what == "map":
            names.add_map(given_names, None, count)
            model.add_map(given_names, count)
        else:
            members = [f"{given_names}[{number}]" for number in range(count)]
            is_refused = model.is_taken(given_names) or not set(members).isdisjoint(model.ids)
            try:
                if what == "id":
                    is_refused = model.is_taken(given_names)
                    names.add_id(given_names)
                else:
                    names.add_map("f", given_names, count)
            except DuplicateStepError:
                assert is_refused
                continue
            assert not is_refused
            if what == "id":
                model.ids.append(given_names)
            else:
                model.add_map(given_names, count)
        assert (names.ids, {name: len(members) for name, members in names.maps.items()}) == (model.ids, model.maps)
    assert [names.place_of(id) for id in model.ids] == list(range(len(model.ids))), "each id leads to its own step"
    assert len(set(model.ids)) == len(model.ids)
    for name in NAMES:
        assert names.is_taken(name) == model.is_taken(name)
        assert (names.place_of(name) is None) == (name not in model.ids)
