// Shows one frame of a walk at a time, by the slider, or all after each other.
const FRAME = 120; // milliseconds
let timer = null;

function show(k) {
  const frames = element.querySelectorAll(".mt-frame");
  if (!frames.length) return;
  frames.forEach((frame, i) => frame.classList.toggle("mt-now", i === k));
  element.querySelector("output").textContent = `t = ${frames[k].dataset.t}`;
  element.querySelector(".mt-walk input").value = k;
}

function play() {
  clearInterval(timer);
  const last = element.querySelectorAll(".mt-frame").length - 1;
  let k = 0;
  show(0);
  timer = setInterval(() => {
    if (k >= last) return clearInterval(timer);
    show(++k);
  }, FRAME);
}

element.addEventListener("input", (event) => {
  clearInterval(timer);
  show(Number(event.target.value));
});
element.addEventListener("click", (event) => {
  if (event.target.tagName === "BUTTON") play();
});
watch("value", play);
play();
