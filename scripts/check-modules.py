#!/usr/bin/env python3
"""The rooms of daemon/src: which may import which, and no import cycle between files.

The order below is the rule: a room imports only rooms that stand further down. Prints what breaks it and ends with 1.
`--graph` prints every arrow between rooms instead.
"""
import re
import sys
from pathlib import Path

# From the top: rooms of one line do not know each other.
FLOORS = [
    ["main"],
    ["compose"],
    ["api"],
    ["lifecycle"],
    ["deploy", "doctor"],
    ["certificates", "membership", "pull"],
    ["image"],
    ["transfer"],
    ["network"],
    ["node"],
    ["failure", "keys"],
    ["state"],
    ["args", "bounded", "http", "progress", "reach"],
    ["descriptors"],
]


def modules(root):
    found = {}
    for path in sorted(root.rglob("*.rs")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        if parts[0] == "bin":
            continue
        if parts[-1] == "mod":
            parts.pop()
        found["::".join(parts)] = path
    return found


def use_paths(tree, prefix=""):
    """Every path of a use tree such as `a::{b, c::{d}}`."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace < 0:
        yield prefix + tree.split(" as ")[0].strip()
        return
    head, depth, start = prefix + tree[:brace], 0, brace + 1
    for at in range(brace, len(tree)):
        if tree[at] == "{":
            depth += 1
        elif tree[at] == "}":
            depth -= 1
        if (tree[at] == "," and depth == 1) or depth == 0:
            if tree[start:at].strip():
                yield from use_paths(tree[start:at], head)
            start = at + 1
            if depth == 0:
                return


def imports(name, text, found):
    """Modules that a file names, by `crate::`, by `super::` or as its children; tests do not count."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"pub\((?:in [^)]*|super|crate)\)", "pub", text)
    text = re.sub(r"#\[cfg\(test\)\]\s*(pub(\([^)]*\))? )?mod tests \{.*\Z", "", text, flags=re.S)
    package = found[name].name == "mod.rs"
    paths = []
    for tree in re.findall(r"\buse ((?:crate|super)::[^;]+);", text):
        paths.extend(use_paths(tree))
    paths.extend(re.findall(r"(?<![\w:])((?:crate|super)(?:::\w+)+)", text))
    children = {child[len(name) + 2:] for child in found if child.startswith(name + "::")}
    for child in {child.split("::")[0] for child in children}:
        for path in re.findall(rf"(?<![\w:.]){child}::(?:\w+::)*\w+", text):
            paths.append(f"crate::{name}::{path}")
        for tree in re.findall(rf"\buse ({child}::\{{[^;]+);", text):
            paths.extend(f"crate::{name}::{path}" for path in use_paths(tree))
    for path in paths:
        parts = path.split("::")
        at = name.split("::")
        if parts[0] == "super":
            base = at[:-1] if not package or len(at) else at
            while parts and parts[0] == "super":
                parts.pop(0)
                if parts and parts[0] == "super":
                    base = base[:-1]
            parts = base + parts
        else:
            parts = parts[1:]
        for end in range(len(parts), 0, -1):
            target = "::".join(parts[:end])
            if target in found:
                if target != name and not is_test(target):
                    yield target
                break


def is_test(name):
    return name.rsplit("::", 1)[-1] in ("tests", "path_tests")


def cycles(graph):
    """Strongly connected components of more than one file (Tarjan)."""
    index, low, stack, on, out, counter = {}, {}, [], set(), [], [0]

    def visit(node):
        index[node] = low[node] = counter[0]
        counter[0] += 1
        stack.append(node)
        on.add(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in on:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = []
            while True:
                member = stack.pop()
                on.discard(member)
                group.append(member)
                if member == node:
                    break
            if len(group) > 1:
                out.append(sorted(group))

    sys.setrecursionlimit(10_000)
    for node in sorted(graph):
        if node not in index:
            visit(node)
    return out


def main():
    root = Path(__file__).resolve().parent.parent / "daemon/src"
    found = modules(root)
    files = {name: path for name, path in found.items() if not is_test(name)}
    graph = {name: set(imports(name, path.read_text(), found)) for name, path in files.items()}
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    arrows = {}
    for name, targets in sorted(graph.items()):
        room = name.split("::")[0]
        if room not in floor:
            wrong.append(f"{name}: the room {room} has no floor in scripts/check-modules.py")
            continue
        for target in sorted(targets):
            other = target.split("::")[0]
            arrows[(room, other)] = arrows.get((room, other), 0) + 1
            if other == room or other not in floor:
                continue
            if floor[other] <= floor[room]:
                wrong.append(f"{name} imports {target}: {room} must not know {other}")
    for group in cycles(graph):
        wrong.append("import cycle: " + ", ".join(group))
    if "--graph" in sys.argv:
        for (a, b), count in sorted(arrows.items()):
            if a != b:
                print(f"{a} -> {b} ({count})")
    for line in wrong:
        print(f"check-modules: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
