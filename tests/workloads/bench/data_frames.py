"""Groups, joins and sorts tables with pandas and numpy: few and large blocks beside many small ones."""
import meter
import numpy
import pandas

ROWS = 5000


def main():
    random = numpy.random.default_rng(1)
    orders = pandas.DataFrame({
        "customer": random.integers(0, 200, ROWS),
        "amount": random.random(ROWS) * 100,
        "day": random.integers(0, 30, ROWS),
    })
    customers = pandas.DataFrame({"customer": numpy.arange(200), "region": ["r%d" % (n % 7) for n in range(200)]})
    counter = meter.Meter()
    meter.ready()
    while True:
        joined = orders.merge(customers, on="customer")
        totals = joined.groupby(["region", "day"])["amount"].sum().reset_index()
        totals["share"] = totals["amount"] / totals["amount"].sum()
        if len(totals.sort_values("share").to_dict("records")) != 210:
            raise SystemExit("groups were lost")
        counter.add()


main()
