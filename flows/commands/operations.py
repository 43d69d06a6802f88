"""Commands about this machine: doctor, status."""

import argparse
import dataclasses
import json
import time

from flows.commands import DONE, FAILED, add_options


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    doctor = commands.add_parser(
        "doctor",
        help="look at libraries, GPU, disks, ports, hubs and leftovers, and say what mends each",
        description="Looks at everything outside Steel that a run depends on. Each finding has the "
        "command that mends it. Exit code 1 where something does not work.",
    )
    doctor.add_argument(
        "--repair",
        action="store_true",
        help="remove what killed runs have left: locks, half-written files, processes, dead runs",
    )
    doctor.add_argument(
        "--offline", action="store_true", help="ask nothing beyond this machine (no hub)"
    )
    doctor.add_argument("--all", action="store_true", help="also print what is as it should be")
    add_options(doctor, "store", "json")
    doctor.set_defaults(run=_doctor)

    status = commands.add_parser(
        "status", help="services, what runs or waits and for what, GPUs, last results, disk"
    )
    add_options(status, "store", "json")
    status.set_defaults(run=_status)


def _doctor(arguments: argparse.Namespace) -> int:
    from common.paths import resolve
    from flows.doctor import examine
    from flows.doctor.leftovers import mend

    store = resolve(arguments.store)
    mended = mend(store) if arguments.repair else []
    found = examine(store, offline=arguments.offline)
    bad = sum(one.level == "problem" for one in found)
    if arguments.json:
        rows = [dataclasses.asdict(one) for one in found]
        print(json.dumps({"findings": rows, "mended": mended}, indent=1, ensure_ascii=False))
        return FAILED if bad else DONE
    for line in mended:
        print(f"mended: {line}")
    marks = {"problem": "✗", "note": "–", "ok": "✓"}
    for one in found:
        if one.level != "ok" or arguments.all:
            print(f"{marks[one.level]} {one.area:9} {one.text}")
            if one.mend:
                print(f"  {'':9} → {one.mend}")
    fine = sum(one.level == "ok" for one in found)
    problems = f"{bad} problem{'' if bad == 1 else 's'}" if bad else "no problem"
    more = "" if arguments.all else "; --all shows what is fine"
    print(f"{problems}, {len(found) - bad - fine} notes, {fine} fine{more}")
    return FAILED if bad else DONE


def _status(arguments: argparse.Namespace) -> int:
    from common.paths import resolve
    from flows.status import lines, status

    found = status(resolve(arguments.store))
    if arguments.json:
        values = {**found, "at": time.strftime("%F %T")}
        print(json.dumps(values, indent=1, ensure_ascii=False))
    else:
        print("\n".join(lines(found)))
    return DONE
