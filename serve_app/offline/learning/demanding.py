"""What demanding prompts are made of: proofs, debugging, design, sums of several steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TEMPLATES: Mapping[str, Sequence[str]] = {
    "en": (
        "Prove that {claim}.", "Show that {claim}, and say where each assumption is used.",
        "Is it true that {claim}? Give a proof or a counterexample.",
        "Derive {formula} from first principles and discuss when it breaks down.",
        "Derive {formula}. Show every step.", "Evaluate {integral} step by step.",
        "Solve {equation} and verify the solution.", "Determine all {solutions} of {equation}.",
        "Compute the {spectral} of {matrix} and interpret the result.",
        "A {vehicle} leaves at {clock} at {n} km/h and another {vehicle2} follows "
        "{m} minutes later at {n2} km/h. When and where does it catch up?",
        "A shop sells {n} items at {m} euros each, discounts a third of them by {p} percent and "
        "pays {n2} euros of rent. What is the profit, and how many more must it sell to double it?",
        "A box holds {small} red and {small2} blue balls. Three are drawn without "
        "replacement. What is the probability that exactly two are red?",
        "{people} people must be seated so that no two rivals are adjacent and "
        "the chair sits at an end. How many seatings satisfy all conditions?",
        "Plan {shifts} for {people} workers over {small2} weeks: at most {small} days "
        "in a row, at least two per night, never a day after a night. Is it feasible?",
        "My {system} {fails} when {trigger}. Find the root cause and fix it.",
        "Debug this: the {system} {fails} only under load.\n```{lang}\n{code}\n```",
        "Why does this {lang} code {fails2}, and what is the correct version?\n{code}",
        "Traceback:\n  File \"{file}.py\", line {n}, in run\n{error}\n"
        "It happens only in {where}. Why, and how do I fix it?",
        "Refactor this {lang} module to {goal} without changing its interface.",
        "Implement {structure} in {lang} with {bound} and unit tests.",
        "Write {artefact} in {lang}. It must handle {edge} and must not use {ban}.",
        "Design {architecture} that {survives}.",
        "Design {architecture}: components, failure modes, capacity estimate, trade-offs.",
        "What is the time complexity of this function, and can it be improved?\n{code}",
        "Review this change for {bugs} and suggest a minimal fix.\n{code}",
        "Write a SQL query that returns {report}, without subqueries in the select list.",
        "Our {system} went from {m} ms to {n} s after {change}. "
        "How would you diagnose it, step by step?",
        "Compare {option} with {option2} for {domain}: consistency, "
        "cost, risk. Recommend one and justify the trade-offs.",
        "Draft a plan for {migration} with no downtime: phases, rollback, tests.",
        "Critically evaluate the argument that {thesis}. "
        "Give the strongest objection and a reply.",
        "Analyse the legal risk of this clause under {law} "
        "and draft a version that satisfies both parties.",
        "A patient of {n} presents with {symptoms}. Give a differential "
        "diagnosis ranked by likelihood and the next tests.",
        "Model {process} with differential equations, find "
        "the equilibria and determine their stability.",
        "Balance the reaction {reaction} and compute the mass "
        "of product from {n} g, assuming {p} percent yield.",
        "Construct a statistical test for {hypothesis}: assumptions, power, "
        "sample size, and how you correct for multiple comparisons.",
        "Every {a} is a {b}. No {b} is a {c}. Some {c} are {d}. Which "
        "conclusions follow, and which do not? Justify each one.",
        "Explain why {phenomenon}, quantitatively, and estimate the size of the effect.",
        "Value a {instrument} with {formula2} and explain how you would hedge it.",
    ),
    "zh": (
        "证明{claim}。", "试证{claim}，并指出每一步用到的条件。",
        "{claim}是否成立？请给出证明或反例。", "推导{formula}，并讨论它在什么情况下失效。",
        "推导{formula}，写出每一步。", "计算{integral}，要求写出过程。", "求解{equation}并验证。",
        "求{equation}的所有{solutions}。", "求{matrix}的{spectral}，并说明其含义。",
        "{vehicle}{clock}出发，时速{n}公里；{vehicle2}{m}分钟后从同一地点出发，"
        "时速{n2}公里。何时何地追上？",
        "商店以每件{m}元卖出{n}件商品，其中三分之一打{small}折，"
        "房租{n2}元。利润是多少？要使利润翻倍还需卖多少件？",
        "盒中有{small}个红球和{small2}个蓝球，不放回取三个，恰好两个红球的概率是多少？",
        "{people}个人排成一排，甲乙不相邻，丙在一端，共有多少种排法？",
        "为{people}名员工排{small2}周的班：连续工作不超过{small}天，"
        "每个夜班至少两人，夜班后不能接白班。是否存在可行方案？",
        "我的{system}在{trigger}时{fails}，请排查根本原因并修复。",
        "帮我调试：{system}只在高并发下{fails}。\n```{lang}\n{code}\n```",
        "这段 {lang} 代码为什么会{fails2}？请给出正确写法。\n{code}",
        "重构这个 {lang} 模块，使它{goal}，接口不变。",
        "用 {lang} 实现{structure}，要求{bound}，并编写单元测试。",
        "用 {lang} 编写{artefact}，必须处理{edge}，不能使用{ban}。",
        "设计{architecture}，要求{survives}。",
        "设计{architecture}：组件、故障模式、容量估算和取舍。",
        "分析下面函数的时间复杂度，能否优化？\n{code}",
        "审查这个改动中的{bugs}，并给出最小修改。\n{code}",
        "写一条 SQL，求{report}，不能用子查询。",
        "{change}之后，{system}的延迟从{m}毫秒变成{n}秒，请逐步诊断。",
        "比较{option}与{option2}在{domain}中的一致性、成本和风险，权衡利弊后给出建议。",
        "制定{migration}的方案：分阶段、可回滚、不停机，并说明如何测试。",
        "批判性地评价“{thesis}”这一论证，给出最有力的反驳。",
        "分析这一条款在{law}下的法律风险，并起草同时满足双方要求的版本。",
        "患者{n}岁，{symptoms}。请给出鉴别诊断并按可能性排序，说明下一步检查。",
        "用微分方程对{process}建模，求平衡点并判断稳定性。",
        "配平反应{reaction}，并计算{n}克反应物在产率{p}%时得到多少产物。",
        "为“{hypothesis}”构造假设检验：前提、功效、样本量以及多重比较的校正。",
        "已知所有{a}都是{b}，没有{b}是{c}，有些{c}是{d}。哪些结论成立？逐一说明理由。",
        "定量解释{phenomenon}，并估计效应的大小。",
        "用{formula2}给{instrument}定价，并说明如何对冲。",
    ),
}  # fmt: skip

WORDS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "en": {
        "claim": (
            "there are infinitely many primes of the form 4k+3",
            "a continuous function on a compact set is uniformly continuous",
            "every finite integral domain is a field",
            "the sum of two odd squares is never a square",
            "a tree with n vertices has n-1 edges", "the harmonic series diverges",
            "a metric space is compact if every sequence has a convergent subsequence",
        ),
        "formula": (
            "the Black-Scholes equation", "the normal equations", "the ideal gas law",
            "Bayes' rule for odds", "the variance of the sample mean",
            "the Euler-Lagrange equation", "the quadratic formula",
        ),
        "integral": (
            "\\int_0^1 x e^{2x} dx", "\\int \\frac{dx}{x^2+4}", "\\sum_{k=1}^n k^3",
            "\\lim_{x \\to 0} \\frac{\\sin 3x}{x}",
        ),
        "equation": (
            "y' + 3y = e^{-x}", "x^2 + y^2 = 65", "y'' - 5y' + 6y = 0", "3^x + 4^x = 5^x",
            "x^3 - 6x^2 + 11x - 6 = 0",
        ),
        "solutions": ("integer solutions", "real solutions", "positive solutions"),
        "spectral": (
            "eigenvalues", "singular values", "characteristic polynomial", "Jordan form",
        ),
        "matrix": (
            "the matrix [[4, 1], [2, 3]]", "the matrix [[0, 1], [-1, 0]]",
            "the matrix [[1, 2, 0], [0, 3, 1], [0, 0, 2]]",
        ),
        "vehicle": ("lorry", "cyclist", "boat"),
        "vehicle2": ("car", "bus", "motorbike"),
        "clock": ("8:20", "10:05", "14:40"),
        "n": ("48", "75", "120", "36", "64"),
        "n2": ("90", "135", "150", "210"),
        "m": ("12", "25", "35", "45"),
        "p": ("10", "15", "20", "85"),
        "small": ("4", "5", "6"),
        "small2": ("3", "7", "8"),
        "people": ("Six", "Seven", "Eight", "Nine"),
        "shifts": ("shifts", "a rota", "on-call duty"),
        "system": (
            "Kafka consumer", "Go service", "React component", "Spark job", "nginx proxy",
            "C++ thread pool", "Django endpoint",
        ),
        "fails": (
            "deadlocks", "leaks memory", "returns stale data",
            "crashes with a segmentation fault", "loses messages", "times out",
        ),
        "fails2": ("fail to compile", "raise an exception", "loop forever", "overflow"),
        "trigger": (
            "two requests arrive at once", "a node restarts", "the cache is cold",
            "the clock is set back",
        ),
        "lang": ("python", "rust", "java", "go", "c++", "typescript"),
        "code": (
            "while lo < hi:\n    mid = (lo + hi) // 2\n    "
            "if a[mid] < x: lo = mid\n    else: hi = mid",
            "for (int i = 0; i <= n; i++) { sum += v[i]; }",
            "def f(n):\n    return f(n-1) + f(n-2) if n > 1 else n",
            "let x = &mut v; for y in v.iter() { x.push(*y); }",
            "async def run():\n    await asyncio.gather(a(), b())\n    lock.release()",
        ),
        "file": ("worker", "views", "train"),
        "error": (
            "KeyError: 'id'", "RuntimeError: dictionary changed size during iteration",
            "TypeError: 'NoneType' object is not iterable",
        ),
        "where": ("production", "the container", "the nightly run"),
        "goal": (
            "be testable", "be thread-safe", "stream instead of load", "use dependency injection",
        ),
        "structure": (
            "a skip list", "a trie with deletion", "a bounded priority queue",
            "a lock-free ring buffer", "a B-tree",
        ),
        "bound": ("O(log n) operations", "constant memory", "no global state"),
        "artefact": (
            "a tokenizer for JSON", "a retry decorator", "an interpreter for a small language",
            "a connection pool", "a diff algorithm",
        ),
        "edge": ("cancellation", "malformed input", "clock skew", "partial writes"),
        "ban": ("recursion", "external libraries", "eval"),
        "architecture": (
            "a job queue", "a multi-tenant search service", "a feature store",
            "an event pipeline", "a chat backend for a million users",
        ),
        "survives": (
            "survives the loss of a region", "guarantees exactly-once effects",
            "keeps the p99 latency under 50 ms",
        ),
        "bugs": ("race conditions", "SQL injection", "off-by-one errors", "resource leaks"),
        "report": (
            "the second highest salary of each department",
            "the longest gap between two logins of every user", "a running total by month",
        ),
        "change": ("an index was dropped", "the upgrade", "a join was added"),
        "option": ("gRPC", "optimistic locking", "sharding", "a monorepo"),
        "option2": ("REST", "pessimistic locking", "read replicas", "many repositories"),
        "domain": ("a trading system", "hospital records", "a game server"),
        "migration": (
            "moving from MySQL to Postgres", "splitting a monolith",
            "replacing the identity provider",
        ),
        "thesis": (
            "markets are efficient", "moral realism is false", "machines cannot understand",
            "punishment deters",
        ),
        "law": ("Swiss law", "the GDPR", "contract law"),
        "symptoms": (
            "chest pain and shortness of breath", "fever, a rash and joint pain",
            "sudden weakness of one arm",
        ),
        "process": ("predators and prey", "a chemical reactor", "a pendulum with friction"),
        "reaction": (
            "Fe + O2 -> Fe2O3", "KMnO4 + HCl -> KCl + MnCl2 + Cl2 + H2O",
            "C3H8 + O2 -> CO2 + H2O",
        ),
        "hypothesis": ("a new drug shortens recovery", "click rates differ between variants"),
        "a": ("zorp", "poet", "dax"),
        "b": ("blick", "dreamer", "wug"),
        "c": ("fendle", "banker", "lorch"),
        "d": ("tove", "sailor", "mib"),
        "phenomenon": (
            "the sky is darker at zenith", "bond prices fall when rates rise",
            "a spinning top precesses",
        ),
        "instrument": ("barrier option", "callable bond", "variance swap"),
        "formula2": ("a binomial tree", "Monte Carlo simulation", "the Heston model"),
    },
    "zh": {
        "claim": (
            "形如 4k+3 的质数有无穷多个", "紧集上的连续函数一致连续", "有限整环是域",
            "n 个顶点的树恰有 n-1 条边", "调和级数发散", "任意两个奇数的平方和不是平方数",
        ),
        "formula": (
            "Black-Scholes 方程", "最小二乘的正规方程", "理想气体状态方程", "样本均值的方差",
            "欧拉-拉格朗日方程", "求根公式",
        ),
        "integral": (
            "定积分 \\int_0^1 x e^{2x} dx", "极限 \\lim_{x \\to 0} \\frac{\\sin 3x}{x}",
            "级数 \\sum_{k=1}^n k^3 的和",
        ),
        "equation": (
            "方程 x^2 + y^2 = 65", "微分方程 y' + 3y = e^{-x}", "微分方程 y'' - 5y' + 6y = 0",
            "不等式 x^2 - 5x + 6 > 0",
        ),
        "solutions": ("整数解", "实数解", "正整数解"),
        "spectral": ("特征值", "奇异值", "特征多项式", "若尔当标准形"),
        "matrix": ("矩阵 [[4, 1], [2, 3]] ", "矩阵 [[0, 1], [-1, 0]] "),
        "vehicle": ("货车", "骑车人", "快艇"),
        "vehicle2": ("轿车", "客车", "摩托车"),
        "clock": ("8:20", "10:05", "14:40"),
        "n": ("48", "75", "120", "36", "64"),
        "n2": ("90", "135", "150", "210"),
        "m": ("12", "25", "35", "45"),
        "p": ("60", "75", "85"),
        "small": ("4", "5", "6"),
        "small2": ("3", "7", "8"),
        "people": ("六", "七", "八", "九"),
        "system": (
            "Kafka 消费者", "Go 服务", "React 组件", "Spark 作业", "C++ 线程池", "Django 接口",
        ),
        "fails": ("死锁", "内存泄漏", "返回旧数据", "崩溃", "丢消息", "超时"),
        "fails2": ("编译不过", "抛出异常", "死循环", "溢出"),
        "trigger": ("两个请求同时到达", "节点重启", "缓存失效", "时钟回拨"),
        "lang": ("Python", "Rust", "Java", "Go", "C++", "TypeScript"),
        "code": (
            "while lo < hi:\n    mid = (lo + hi) // 2\n    "
            "if a[mid] < x: lo = mid\n    else: hi = mid",
            "for (int i = 0; i <= n; i++) { sum += v[i]; }",
            "def f(n):\n    return f(n-1) + f(n-2) if n > 1 else n",
            "let x = &mut v; for y in v.iter() { x.push(*y); }",
        ),
        "goal": ("线程安全", "可以单元测试", "改为流式处理"),
        "structure": ("跳表", "支持删除的字典树", "有界优先队列", "无锁环形缓冲区", "B 树"),
        "bound": ("每次操作 O(log n)", "内存占用恒定", "没有全局状态"),
        "artefact": (
            "JSON 词法分析器", "重试装饰器", "一个小语言的解释器", "连接池", "差异比较算法",
        ),
        "edge": ("取消", "畸形输入", "时钟偏移", "部分写入"),
        "ban": ("递归", "第三方库", "eval"),
        "architecture": (
            "一个任务队列", "多租户搜索服务", "特征平台", "事件流水线", "百万用户的聊天后端",
        ),
        "survives": ("单个地域故障时仍可用", "保证恰好一次的效果", "p99 延迟低于 50 毫秒"),
        "bugs": ("竞态条件", "SQL 注入", "越界错误", "资源泄漏"),
        "report": ("每个部门工资第二高的人", "每个用户两次登录的最长间隔", "按月累计金额"),
        "change": ("删除索引", "升级", "增加一个关联"),
        "option": ("gRPC", "乐观锁", "分片", "单一仓库"),
        "option2": ("REST", "悲观锁", "只读副本", "多仓库"),
        "domain": ("交易系统", "医院病历系统", "游戏服务器"),
        "migration": ("从 MySQL 迁移到 Postgres", "拆分单体应用", "更换身份认证系统"),
        "thesis": ("市场是有效的", "机器不可能理解语言", "惩罚能够威慑犯罪"),
        "law": ("合同法", "个人信息保护法", "劳动法"),
        "symptoms": ("胸痛伴气促", "发热、皮疹、关节痛", "一侧手臂突然无力"),
        "process": ("捕食者与猎物", "化学反应器", "有摩擦的单摆"),
        "reaction": ("Fe + O2 -> Fe2O3", "C3H8 + O2 -> CO2 + H2O"),
        "hypothesis": ("新药缩短康复时间", "两个版本的点击率不同"),
        "a": ("诗人", "甲类元素", "哲学家"),
        "b": ("梦想家", "乙类元素", "凡人"),
        "c": ("银行家", "丙类元素", "神"),
        "d": ("水手", "丁类元素", "英雄"),
        "phenomenon": ("利率上升时债券价格下跌", "陀螺为什么会进动", "为什么会有潮汐"),
        "instrument": ("障碍期权", "可赎回债券", "方差互换"),
        "formula2": ("二叉树", "蒙特卡洛模拟", "Heston 模型"),
    },
}  # fmt: skip
