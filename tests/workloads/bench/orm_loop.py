"""Writes, reads and deletes rows through an ORM: sqlalchemy, with SQLite in memory."""
import meter
from sqlalchemy import ForeignKey, create_engine, delete, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload
from sqlalchemy.pool import StaticPool


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    lines: Mapped[list["Line"]] = relationship(back_populates="order")


class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    product: Mapped[str]
    amount: Mapped[int]
    order: Mapped[Order] = relationship(back_populates="lines")


def work(engine):
    with Session(engine) as session:
        for number in range(3):
            lines = [Line(product="product %d" % line, amount=line) for line in range(4)]
            session.add(Order(customer="customer %d" % number, lines=lines))
        session.commit()
        found = session.scalars(select(Order).options(selectinload(Order.lines))).all()
        if sum(line.amount for order in found for line in order.lines) != 18:
            raise SystemExit("lines were lost")
        session.execute(delete(Line))
        session.execute(delete(Order))
        session.commit()


def main():
    # One connection for all: each would have a database of its own.
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    counter = meter.Meter()
    meter.ready()
    while True:
        work(engine)
        counter.add()


main()
