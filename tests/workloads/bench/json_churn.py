"""Writes and reads JSON as fast as it can: strings, numbers, lists and dictionaries of all lives but long ones."""
import json

import meter

RECORDS = [
    {"id": number, "name": "customer %d" % number, "scores": [number * 0.5, number * 1.5], "tags": {"a": number, "b": None}}
    for number in range(500)
]


def main():
    counter = meter.Meter()
    meter.ready()
    while True:
        text = json.dumps(RECORDS)
        if len(json.loads(text)) != len(RECORDS):
            raise SystemExit("records were lost")
        counter.add()


main()
