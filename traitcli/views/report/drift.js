// Shows how scores change from day to day: one chart for each model that read the texts.

const DAY_MS = 86_400_000;
const dayNumber = (day) => Date.parse(`${day}T00:00:00Z`) / DAY_MS;
const dayName = (number) =>
  Number.isInteger(number) ? new Date(number * DAY_MS).toISOString().slice(0, 10) : "";

/** The table below a chart: a row a day. It is what a screen reader reads. */
function fillDays(table, row) {
  const head = table.tHead.insertRow();
  for (const [title, text] of [
    ["Day", true],
    ["Texts", false],
    ...Object.keys(row.means).map((trait) => [trait, false]),
  ]) {
    const th = element("th", text ? "text" : "", title);
    th.scope = "col";
    head.append(th);
  }
  row.days.forEach((day, i) => {
    const line = table.tBodies[0].insertRow();
    line.append(rowHead(day));
    cell(line, formatCount(row.texts[i]));
    for (const means of Object.values(row.means)) {
      cell(line, means[i] === null ? "–" : formatScore(means[i]));
    }
  });
}

function drawDays(article, row) {
  const part = (name) => article.querySelector(`[data-part="${name}"]`);
  const traits = Object.keys(row.means);
  const xs = row.days.map(dayNumber);
  const hint = "Point at a day to read its means.";
  const showDay = (index) => {
    part("caption").textContent =
      index === null
        ? hint
        : joinParts(
            row.days[index],
            countOf(row.texts[index], "text"),
            ...traits.map((trait) => `${trait} ${formatScore(row.means[trait][index] ?? NaN)}`),
          );
  };
  showDay(null);
  part("lines").setAttribute(
    "aria-label",
    `Mean ${row.unit} scores from ${row.days[0]} to ${row.days.at(-1)}; the table has the numbers`,
  );
  part("names").replaceChildren(
    ...traits.map((trait) => {
      const item = element("li");
      item.append(element("i", `swatch ${colorClass(trait)}`), trait);
      return item;
    }),
  );
  new LineChart(part("lines"), {
    xs,
    names: ["day (UTC)", row.unit === "calibrated" ? "calibrated score" : "projection"],
    marks: row.unit === "calibrated" ? [-1, 1] : [],
    include: [0],
    xLabel: dayName,
    onHover: showDay,
    lines: traits.map((trait) => ({
      trait,
      values: row.means[trait].map((mean) => mean ?? NaN),
      width: 1.75,
      dots: xs.map((_, i) => i),
    })),
  });
}

function showDrift(rows) {
  document.getElementById("drift").hidden = rows.length === 0;
  rows.forEach((row, number) => {
    const article = copyTemplate("days", number);
    article.querySelector('[data-part="model"]').textContent = joinParts(
      row.model || "unknown model",
      countOf(sum(row.texts), "text"),
    );
    fillDays(article.querySelector("table"), row);
    // First into the page: a chart has the size of its place.
    document.getElementById("drift-list").append(article);
    drawDays(article, row);
  });
}
