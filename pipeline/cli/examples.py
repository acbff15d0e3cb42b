"""Examples of each verb, shown below its --help: what is typed, and what it does."""

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "init": (
        ("duplet init pairs.tsv", "what its columns are; writes my.yaml for them"),
        ("duplet init ~/notes", "what the folder holds, and how to search it"),
        ("duplet init reviews.csv --task classification --columns text=body label=stars", "asks nothing"),
    ),
    "demo": (
        ("duplet demo", "the list of them"),
        ("duplet demo demo", "writes demo.yaml; duplet run demo.yaml runs it"),
    ),
    "run": (
        ("duplet run my.yaml", "all stages"),
        ("duplet run my.yaml model.layers=2 train.epochs=5", "with other settings; only affected stages run again"),
        ("duplet run my.yaml --workers 2", "two Horovod workers"),
    ),
    "ingest": (("duplet ingest my.yaml", "to see whether the source can be read"),),
    "tokenize": (("duplet tokenize my.yaml tokenize.kind=jieba", "Chinese words"),),
    "teach": (("duplet teach my.yaml", "before training: what the teacher's scores are worth"),),
    "mine": (("duplet mine my.yaml mine.by=[bm25] train.loss.listed_negatives=2", "how many are found"),),
    "pretrain": (("duplet pretrain my.yaml pretrain.pairs=20000", "how many pairs the documents give, and a model"),),
    "train": (("duplet train my.yaml --workers 2", "goes on where it was stopped"),),
    "evaluate": (("duplet evaluate my.yaml", "the table of the test split"),),
    "promote": (
        ("duplet promote my.yaml", "the champion, if it is not worse than the one before"),
        ("duplet promote my.yaml --back", "the champion before is live again"),
    ),
    "report": (("duplet report my.yaml", "where the page is"),),
    "compare": (
        ("duplet compare my.yaml runs/evaluate/3f2a9c41d7e05b68", "a configuration's newest run beside another run"),
    ),
    "sweep": (("duplet sweep my.yaml model.hidden=64,96 train.loss.temperature=0.05,0.1", "four trainings"),),
    "status": (("duplet status my.yaml", "which stages are up to date, and what changed"),),
    "runs": (
        ("duplet runs", "all runs under runs/"),
        ("duplet runs --root notes.index.training --json", "for a script"),
    ),
    "predict": (("duplet predict my.yaml --input rows.jsonl --output out.jsonl", "scores of a file"),),
    "generate": (("duplet generate char_python.yaml --prompt 'def '", "text that goes on from there"),),
    "export": (("duplet export my.yaml --to onnx --output model", "a folder that needs no MXNet"),),
    "vectors": (
        ("duplet vectors my.yaml --output words.vec --texts wiki.txt", "by the words that stand near, with gensim"),
        ("duplet vectors my.yaml --output words.vec --onnx all-MiniLM-L6-v2", "by what an encoder makes of each word"),
    ),
    "import": (("duplet import model --output folder", "back from PyTorch's layout"),),
    "index": (
        ("duplet index --documents ~/notes --output notes.index", "a folder, ranked by words"),
        ("duplet index my.yaml --documents docs.jsonl --output docs.index", "by a trained model too"),
        ("duplet index my.yaml --output notes.index", "the model joins an index that has none"),
        ("duplet index --documents ~/notes --output notes.index --sync", "what was deleted there leaves the index"),
        ("duplet index --delete old.txt --output notes.index", "takes a document out"),
    ),
    "train-on": (
        ("duplet train-on notes.index", "pairs of its documents, a model, joined"),
        ("duplet train-on notes.index --anew --workers 2", "again, after the documents changed"),
    ),
    "search": (
        ("duplet search notes.index", "asks at a prompt"),
        ("duplet search notes.index 'renew a passport' --k 3", "one query"),
        ("duplet search notes.index tax --where 'language=en and date>=2024'", "with a filter"),
        ("duplet search notes.index --serve", "a page: http://127.0.0.1:8765/"),
    ),
    "ask": (
        ("duplet ask notes.index 'when is the rent due'", "the best passages"),
        (
            "duplet ask notes.index 'when is the rent due' --llm http://127.0.0.1:11434/v1 --llm-model qwen3",
            "an answer",
        ),
    ),
    "by-hand": (("duplet by-hand --updates 300 --no-picture", "a minute of it"),),
    "replay": (("duplet replay runs/work/train-3f2a9c-not-finite-00000120", "the update that failed, once more"),),
    "sync": (("duplet sync --root runs", "after MLflow was down"),),
    "ui": (
        ("duplet ui", "MLflow's pages: http://127.0.0.1:5000/"),
        ("duplet ui my.yaml --port 5001", "and the address of its newest run"),
    ),
    "clean": (
        ("duplet clean --dry-run", "what would go, and why"),
        ("duplet clean --keep-runs 3 --days 30", "older runs go too"),
    ),
    "gc": (("duplet gc --dry-run", "what would go, and how much"),),
    "doctor": (("duplet doctor", "what is missing, with its fix"),),
    "config": (
        ("duplet config my.yaml", "every setting with its value"),
        ("duplet config explain train.loss", "what settings mean"),
    ),
    "completion": (
        ('eval "$(duplet completion bash)"', "in ~/.bashrc; `zsh` likewise in ~/.zshrc"),
        ("duplet completion fish | source", "in ~/.config/fish/config.fish"),
    ),
    "submit": (("duplet submit my.yaml --target slurm --workers 16 --dry-run", "the files that it would send"),),
    "jobs": (("duplet jobs list", "all jobs"), ("duplet jobs logs faq-20260102", "what one of them said")),
    "schedule": (('duplet schedule my.yaml --cron "0 2 * * *"', "every night at two"),),
}


def shown(verb: str) -> str:
    """The examples of a verb, to stand below its help; "" of one without."""
    examples = EXAMPLES.get(verb, ())
    width = max((len(command) for command, _ in examples), default=0)
    width = min(width, 60)
    lines = [f"  {command:{width}}   {what}" for command, what in examples]
    return "\n".join(["examples:", *lines]) if examples else ""
