// A canvas of the model's own pixels. props.value: {picture, height, width, hidden}, of
// which hidden, a 0 or 1 for each pixel, is what painting changes.
const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
const size = element.querySelector("input"), image = new Image();
let hidden = [], painting = false;

function draw() {
  const { height, width } = props.value;
  canvas.width = width;
  canvas.height = height;
  pen.drawImage(image, 0, 0, width, height);
  pen.fillStyle = "rgba(214, 120, 0, 0.85)";
  hidden.forEach((is, i) => {
    if (is) pen.fillRect(i % width, Math.floor(i / width), 1, 1);
  });
}

function tell() {
  props.value = { ...props.value, hidden: hidden.map(Number).join("") };
}

function hear() {
  if (!props.value) return;
  hidden = [...props.value.hidden].map((letter) => letter === "1");
  image.onload = draw;
  if (image.src === props.value.picture) draw();
  else image.src = props.value.picture;
}

function paint(event) {
  const box = canvas.getBoundingClientRect(), { height, width } = props.value;
  const x = ((event.clientX - box.left) / box.width) * width;
  const y = ((event.clientY - box.top) / box.height) * height;
  const radius = (Number(size.value) / 100) * width;
  for (let i = 0; i < height * width; i++) {
    const away = Math.hypot((i % width) + 0.5 - x, Math.floor(i / width) + 0.5 - y);
    if (away <= Math.max(radius, 0.71)) hidden[i] = true;
  }
  draw();
}

function hide(is) {
  hidden = hidden.map((_, i) => is(Math.floor(i / props.value.width)));
  draw();
  tell();
}

canvas.addEventListener("pointerdown", (event) => {
  painting = true;
  canvas.setPointerCapture(event.pointerId);
  paint(event);
});
canvas.addEventListener("pointermove", (event) => painting && paint(event));
["pointerup", "pointercancel"].forEach((name) =>
  canvas.addEventListener(name, () => {
    if (painting) tell();
    painting = false;
  }),
);
const [half, none] = element.querySelectorAll("button");
half.addEventListener("click", () => hide((row) => row >= props.value.height / 2));
none.addEventListener("click", () => hide(() => false));
watch("value", hear);
hear();
